use super::*;
use omar_schemas::Split;
use proptest::prelude::*;

fn recording(name: &str) -> Recording {
    let track_id = TrackId::of(name, 0);
    Recording { track_id, path: name.to_owned(), split: Split::Train, bytes: 1, identity: 1, content: false }
}

fn catalogue(names: impl Iterator<Item = String>, size: ShardSize) -> Catalogue {
    let recordings = names.map(|name| recording(&name)).collect();
    Catalogue::new(vec![("tracks".to_owned(), recordings)], size).expect("distinct names")
}

fn listing(names: &[&str]) -> Listing {
    names.iter().map(|name| recording(name)).collect()
}

fn ids(catalogue: &Catalogue) -> Vec<TrackId> {
    let of = |shard: &Arc<Shard>| (0..shard.len()).map(|track| shard.track_id(track)).collect::<Vec<_>>();
    catalogue.shards.iter().flat_map(of).collect()
}

fn keys(catalogue: &Catalogue) -> Vec<ShardKey> {
    catalogue.shards.iter().map(|shard| shard.key(&[0])).collect()
}

fn corpora() -> impl Strategy<Value = Vec<String>> {
    let names = prop::collection::hash_set(0u32..100_000, 1..300);
    names.prop_map(|names| names.into_iter().map(|name| name.to_string()).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn shards_depend_on_the_set_of_tracks_only(mut names in corpora(), turn in 0usize..300) {
        let straight = catalogue(names.iter().cloned(), ShardSize::Auto);
        let middle = turn % names.len();
        names.rotate_left(middle);
        let turned = catalogue(names.into_iter(), ShardSize::Auto);
        prop_assert_eq!(keys(&straight), keys(&turned));
        prop_assert_eq!(ids(&straight), ids(&turned));
    }

    #[test]
    fn a_track_more_touches_one_shard(names in corpora(), auto: bool) {
        let size = if auto { ShardSize::Auto } else { ShardSize::Tracks(3) };
        let before = keys(&catalogue(names.iter().cloned(), size));
        let after = catalogue(names.into_iter().chain(["newcomer".to_owned()]), size);
        let kept = keys(&after);
        let gone = before.iter().filter(|key| !kept.contains(key)).count();
        let fresh: Vec<_> = after.shards.iter().filter(|shard| !before.contains(&shard.key(&[0]))).collect();
        prop_assert!(gone <= 1);
        // The shard that took it in, or the parts into which that had to be split.
        let prefix = fresh.iter().map(|shard| shard.name.len()).min().expect("the newcomer is somewhere");
        prop_assert!(fresh.iter().all(|shard| shard.len() <= 256 && shard.name.len() >= prefix));
        let tracks: usize = fresh.iter().map(|shard| shard.len()).sum();
        prop_assert!(tracks <= 257);
    }
}

#[test]
fn small_corpora_get_small_shards_and_large_ones_full_shards() {
    let sizes = |n: u32| -> (usize, usize) {
        let catalogue = catalogue((0..n).map(|i| i.to_string()), ShardSize::Auto);
        let largest = catalogue.shards.iter().map(|shard| shard.len()).max().expect("shards");
        (catalogue.shards.len(), largest)
    };
    assert_eq!(sizes(4), (1, 4));
    let (shards, largest) = sizes(100);
    assert!((5..=12).contains(&shards) && largest <= 32, "{shards} {largest}");
    let (shards, largest) = sizes(100_000);
    assert!((390..1000).contains(&shards) && largest <= 256, "{shards} {largest}");
}

#[test]
fn names_are_the_bits_that_members_share() {
    let catalogue = catalogue((0..40).map(|i| i.to_string()), ShardSize::Tracks(5));
    for shard in &catalogue.shards {
        let bits = shard.name.strip_prefix("s-").expect("prefix");
        let ids: Vec<TrackId> = (0..shard.len()).map(|track| shard.track_id(track)).collect();
        assert!(ids.iter().all(|id| format!("{:064b}", id.0).starts_with(bits)) && ids.is_sorted());
    }
    assert!(catalogue.shards.is_sorted_by(|a, b| a.name < b.name));
    assert_eq!(catalogue.tracks(), 40);
}

#[test]
fn a_limit_leaves_whole_shards_as_they_are() {
    let whole = catalogue((0..100).map(|i| i.to_string()), ShardSize::Auto);
    let mut some = catalogue((0..100).map(|i| i.to_string()), ShardSize::Auto);
    some.limit(50);
    assert_eq!(some.tracks(), 50);
    let (last, first) = keys(&some).split_last().map(|(last, first)| (last.clone(), first.to_vec())).expect("shards");
    assert!(first.iter().all(|key| keys(&whole).contains(key)) && first.len() > 2);
    assert!(!keys(&whole).contains(&last));
    some.limit(0);
    assert!(some.shards.is_empty());
}

#[test]
fn a_key_covers_what_its_sources_say_and_nothing_else() {
    let with = |change: fn(&mut Recording), source: usize| {
        let mut both = [recording("x"), recording("x")];
        change(&mut both[source]);
        let [a, b] = both.map(|recording| Listing::from_iter([recording]));
        let sources = vec![("a".to_owned(), a), ("b".to_owned(), b)];
        Catalogue::new(sources, ShardSize::Auto).expect("distinct").shards.remove(0)
    };
    let plain = with(|_| {}, 0).key(&[0]);
    assert_eq!(with(|r| r.identity = 2, 1).key(&[0]), plain);
    assert_ne!(with(|r| r.identity = 2, 0).key(&[0]), plain);
    assert_ne!(with(|r| r.split = Split::Valid, 0).key(&[0]), plain);
    assert_ne!(with(|r| r.path = "y".to_owned(), 0).key(&[0]), plain);
    assert_eq!(with(|r| r.bytes = 2, 0).key(&[0]), plain);
    assert_ne!(with(|_| {}, 0).key(&[0, 1]), plain);
}

#[test]
fn sources_are_matched_by_track() {
    let sources = vec![("a".to_owned(), listing(&["x", "y"])), ("b".to_owned(), listing(&["y"]))];
    let catalogue = Catalogue::new(sources, ShardSize::Auto).expect("distinct");
    assert_eq!(catalogue.source("b"), Some(1));
    let shard = &catalogue.shards[0];
    let known = |track: usize| (shard.recording(0, track).is_some(), shard.recording(1, track).is_some());
    let mut pairs: Vec<_> = (0..shard.len()).map(known).collect();
    pairs.sort_unstable();
    assert_eq!(pairs, [(true, false), (true, true)]);
    let twice = Catalogue::new(vec![("a".to_owned(), listing(&["x", "x"]))], ShardSize::Auto);
    assert!(twice.expect_err("twice").to_string().starts_with("source `a` lists track"));
}
