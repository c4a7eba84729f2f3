//! How often each code of each codebook occurs in the corpus: a differential collection of counts, summed per code.
//!
//! It begins with what the caches hold. Every shard that is committed adds its counts and, if it replaces another,
//! retracts that one's; what has left the corpus is retracted at the beginning. So the sums are those of the corpus
//! although only what changed was looked at, and only the codes whose counts changed are summed again.

use std::collections::BTreeMap;
use std::sync::Arc;

use differential_dataflow::AsCollection;
use differential_dataflow::operators::CountTotal;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::generic::operator::source;
use timely::dataflow::operators::{Capability, Concat, Exchange};
use timely::dataflow::{Scope, StreamVec};

use super::record::Counted;
use crate::exec::codes::{Change, CodeKey, CodeTotals};
use crate::exec::shards::Course;

/// A code, when its count changes, and by how much.
type Update = (CodeKey, u64, isize);

/// Keeps `totals` at the sums; where the corpus is divided, those of the first process. `consumed` is where the corpus
/// stages are. The `first` worker of a process says what its caches hold.
pub(crate) fn usage<'scope>(
    scope: Scope<'scope, u64>,
    course: &Arc<Course>,
    counted: StreamVec<'scope, u64, Counted>,
    consumed: StreamVec<'scope, u64, ()>,
    totals: CodeTotals,
    first: bool,
) -> StreamVec<'scope, u64, ((CodeKey, isize), u64, isize)> {
    let changes = settled(counted, consumed, course.clone());
    sums(standing(scope, course.clone(), first).concat(changes), course.division.is_divided(), totals)
}

/// What the caches of a process hold when the run begins, from one of its workers.
fn standing(scope: Scope<'_, u64>, course: Arc<Course>, first: bool) -> StreamVec<'_, u64, Update> {
    source::<_, CapacityContainerBuilder<Vec<Update>>, _, _>(scope, "standing", move |capability, _| {
        let mut capability = Some(capability).filter(|_| first);
        move |output| {
            let Some(capability) = capability.take() else { return };
            let mut session = output.session(&capability);
            let epoch = *capability.time();
            course.standing.changes.iter().for_each(|change| session.give_iterator(updates(change, epoch)));
        }
    })
}

/// Waits until all corpus stages have come past a shard, and lets through what then still counts.
fn settled<'scope>(
    counted: StreamVec<'scope, u64, Counted>,
    consumed: StreamVec<'scope, u64, ()>,
    course: Arc<Course>,
) -> StreamVec<'scope, u64, Update> {
    type Builder = CapacityContainerBuilder<Vec<Update>>;
    counted.binary_frontier::<_, Builder, _, _, _, _>(consumed, Pipeline, Pipeline, "settled", move |_, _| {
        let mut waiting: BTreeMap<u64, (Capability<u64>, Vec<Counted>)> = BTreeMap::new();
        move |(counted, _), (consumed, passed), output| {
            counted.for_each(|stamp, shards| {
                for shard in shards.drain(..) {
                    if let Some(capability) = stamp.retain_least(0) {
                        waiting.entry(shard.0.epoch).or_insert_with(|| (capability, Vec::new())).1.push(shard);
                    }
                }
            });
            consumed.for_each(|_, nothing| nothing.clear());
            while let Some(entry) = waiting.first_entry().filter(|entry| !passed.less_equal(entry.key())) {
                let (epoch, (capability, shards)) = entry.remove_entry();
                let mut session = output.session(&capability);
                for (task, changes) in &shards {
                    let counts = changes.iter().filter(|change| course.counts(task, change.node));
                    counts.for_each(|change| session.give_iterator(updates(change, epoch)));
                }
            }
        }
    })
}

fn updates(change: &Change, epoch: u64) -> impl Iterator<Item = Update> {
    change.codes().map(move |(key, count)| (key, epoch, count as isize))
}

/// Sums the changes. Each worker holds the codes that hash to it; together they hold every code once. Where those are
/// workers of several processes, what changes goes on to the first one.
fn sums<'scope>(
    changes: StreamVec<'scope, u64, Update>,
    divided: bool,
    totals: CodeTotals,
) -> StreamVec<'scope, u64, ((CodeKey, isize), u64, isize)> {
    let report = move |updates: &[((CodeKey, isize), u64, isize)]| {
        totals.apply(updates.iter().map(|&((key, count), _, change)| (key, (count * change) as i64)));
    };
    let sums = changes.as_collection().count_total().inner;
    let sums = if divided { sums.exchange(|_| 0) } else { sums };
    sums.as_collection().inspect_batch(move |_, updates| report(updates)).inner
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use omar_schemas::{Edge, StreamSpec, Tokens, TokensSpec};
    use omar_stages::storage::CodeCounts;
    use timely::dataflow::InputHandle;
    use timely::dataflow::operators::{Input, Inspect, Probe};

    use super::*;

    /// The counts of a shard with these tokens, of one codebook of 8 codes.
    fn shard(tokens: &[u16]) -> CodeCounts {
        use arrow::array::{Float64Array, RecordBatch, UInt32Array};
        use omar_schemas::{Origin, Split, TrackId, fixed_tensor};
        let streams =
            vec![StreamSpec { view: "mel".to_owned(), codebooks: 1, codebook_size: 8, quantizer: String::new() }];
        let positions = tokens.len() as u32;
        let (sample_rate, crop_samples, patch_samples) = (100, 100, 25);
        let schema = Tokens::schema(&TokensSpec { sample_rate, crop_samples, patch_samples, positions, streams });
        let mut columns = Origin { track_id: TrackId(1), path: "a.wav".to_owned(), split: Split::Train }.columns(1);
        columns.push(Arc::new(UInt32Array::from(vec![0])));
        columns.push(Arc::new(Float64Array::from(vec![0.0])));
        columns.push(Arc::new(Float64Array::from(vec![1.0])));
        columns.push(fixed_tensor::<arrow::datatypes::UInt16Type>(tokens.len(), tokens.to_vec()));
        let mut counts = CodeCounts::of(&schema).expect("tokens");
        counts.add(&RecordBatch::try_new(schema, columns).expect("columns of the edge")).expect("codes below 8");
        counts
    }

    #[test]
    fn a_replaced_shard_retracts_its_counts_and_nothing_else_is_summed_again() {
        for workers in [1, 3] {
            let totals = CodeTotals::default();
            type Changes = Vec<(u64, u32, isize, isize)>;
            let changed: Arc<Mutex<Changes>> = Arc::default();
            let (seen, ours) = (totals.clone(), changed.clone());
            let run = move |worker: &mut timely::worker::Worker| {
                let mut input = InputHandle::<u64, CapacityContainerBuilder<Vec<Update>>>::new();
                let (probe, log) = (timely::dataflow::ProbeHandle::new(), ours.clone());
                worker.dataflow::<u64, _, _>(|scope| {
                    let note = move |&(((_, code), count), epoch, change): &((CodeKey, isize), u64, isize)| {
                        log.lock().expect("log").push((epoch, code, count, change));
                    };
                    sums(scope.input_from(&mut input), workers > 1, seen.clone()).inspect(note).probe_with(&probe);
                });
                let steps = [
                    vec![Change::addition(0, shard(&[1, 1, 1, 2])), Change::addition(0, shard(&[2, 5]))],
                    // The first shard is replaced by one that has 1 once, and 6 instead of 2.
                    vec![Change::retraction(0, shard(&[1, 1, 1, 2])), Change::addition(0, shard(&[1, 6]))],
                    // The second one leaves the corpus.
                    vec![Change::retraction(0, shard(&[2, 5]))],
                ];
                for (epoch, step) in (0u64..).zip(steps) {
                    if worker.index() == 0 {
                        step.iter().for_each(|change| updates(change, epoch).for_each(|update| input.send(update)));
                    }
                    input.advance_to(epoch + 1);
                    worker.step_while(|| probe.less_than(&(epoch + 1)));
                }
            };
            timely::execute(timely::Config::process(workers), run).expect("starts").join().into_iter().for_each(drop);
            assert_eq!(totals.usage((0, 0, 0), 8).counts(), [0, 1, 0, 0, 0, 0, 1, 0]);
            let mut changed = std::mem::take(&mut *changed.lock().expect("log"));
            changed.sort_unstable();
            let second: Vec<_> = changed.iter().filter(|change| change.0 == 1).map(|c| (c.1, c.2, c.3)).collect();
            assert_eq!(second, [(1, 1, 1), (1, 3, -1), (2, 1, 1), (2, 2, -1), (6, 1, 1)], "5 is left alone");
            let third: Vec<_> = changed.iter().filter(|change| change.0 == 2).map(|c| (c.1, c.2, c.3)).collect();
            assert_eq!(third, [(2, 1, -1), (5, 1, -1)]);
        }
    }
}
