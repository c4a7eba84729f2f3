//! How the processes of a run share its work.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use omar_stages::Scope;
use omar_stages::train::{Collective, CollectiveError};

use crate::plan::Plan;

/// Who does what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Division {
    /// One process does everything.
    #[default]
    Alone,
    /// Every process is handed the whole corpus, because they train on it together. The first one keeps the rows.
    Whole {
        /// Which process this is.
        process: usize,
    },
    /// Every process works on the shards that it owns, and keeps their rows. Stages that see the whole corpus run in the
    /// first one.
    Shards {
        /// Which process this is.
        process: usize,
        /// How many there are.
        processes: usize,
        /// The process that owns a shard, by its place in the corpus.
        owners: Vec<usize>,
    },
}

/// Processes whose shards are told apart by one call: each has a bit of an integer that f64 holds exactly.
const BITS: usize = 52;

impl Division {
    /// Whether rows that are to be kept are kept by this process.
    pub(crate) fn keeps(&self) -> bool {
        !matches!(self, Self::Whole { process: 1.. })
    }

    /// Whether the corpus is divided among processes.
    pub(crate) fn is_divided(&self) -> bool {
        matches!(self, Self::Shards { .. })
    }

    /// Whether this process works on the shard at this place of the corpus.
    pub(crate) fn owns(&self, shard: usize) -> bool {
        match self {
            Self::Alone | Self::Whole { .. } => true,
            Self::Shards { process, owners, .. } => owners[shard] == *process,
        }
    }
}

/// The kind of work that several processes can share in a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SharedWork {
    /// Training: every process reads the whole corpus.
    Training,
    /// The recordings: every process reads its part of the corpus.
    Recordings,
}

/// What the processes of a run would share.
///
/// # Errors
/// The node whose work they cannot share, and why.
pub(crate) fn shared_work(plan: &Plan, processes: usize) -> Result<SharedWork, String> {
    let mut trained = Vec::new();
    let is_corpus = |node: &&crate::plan::PlanNode| matches!(node.scope, Scope::Corpus { .. });
    for node in plan.nodes.iter().filter(is_corpus) {
        if node.stage.shares(processes).map_err(|reason| format!("node `{}`: {reason}", node.id))? {
            trained.push(node.id.as_str());
        }
    }
    match trained[..] {
        [] => {}
        [_] => return Ok(SharedWork::Training),
        [first, second, ..] => {
            return Err(format!(
                "nodes `{first}` and `{second}` train, and processes can share one only: use --until, or two graphs"
            ));
        }
    }
    for node in plan.nodes.iter().filter(is_corpus) {
        for input in &node.inputs {
            let producer = &plan.nodes[input.node];
            if carries_audio(&producer.schema) {
                return Err(format!(
                    "node `{}` sees the whole corpus, in the first process, and its input `{}` is audio, which never \
                     goes over the network: run this graph in one process",
                    node.id, producer.id
                ));
            }
        }
    }
    Ok(SharedWork::Recordings)
}

/// Whether the rows of an edge hold samples of recordings.
fn carries_audio(schema: &arrow::datatypes::Schema) -> bool {
    use omar_schemas::{Edge, Features};
    match omar_schemas::edge_name(schema) {
        Some("audio" | "crop") => true,
        Some("features") => {
            Features::spec(schema).is_ok_and(|spec| spec.views.iter().any(|view| view.name == "waveform"))
        }
        _ => false,
    }
}

/// Agrees with the other processes on who owns which shard. `held` says of every shard whether this process has all of
/// it in its caches, `work` how much it is, in any unit; what the first process says of it counts.
///
/// What one process alone holds is its own: caches may be on disks that others do not see. What all hold, on a disk they
/// share, and what none holds is dealt out, each kind for itself, so that all have as much work.
///
/// # Errors
/// When another process is lost.
pub(crate) fn agree(held: &[bool], work: &[u64], collective: &dyn Collective) -> Result<Division, CollectiveError> {
    let (process, processes) = (collective.rank(), collective.size());
    let mut holders: Vec<Vec<usize>> = vec![Vec::new(); held.len()];
    for first in (0..processes).step_by(BITS) {
        let own = if (first..first + BITS).contains(&process) { (1u64 << (process - first)) as f64 } else { 0.0 };
        let mut sums: Vec<f64> = held.iter().map(|&held| if held { own } else { 0.0 }).collect();
        collective.sum(&mut sums)?;
        for (holders, sum) in holders.iter_mut().zip(sums) {
            let bits = sum as u64;
            holders.extend((0..BITS).filter(|bit| bits >> bit & 1 == 1).map(|bit| first + bit));
        }
    }
    let told = collective.broadcast(work.iter().flat_map(|work| work.to_le_bytes()).collect())?;
    let work: Vec<u64> = told.as_chunks().0.iter().copied().map(u64::from_le_bytes).collect();
    let mut owners: Vec<usize> = holders.iter().map(|holders| holders.first().copied().unwrap_or(0)).collect();
    for count in [0, processes] {
        let shards = (0..work.len()).filter(|shard| holders[*shard].len() == count).collect();
        deal(shards, &work, processes, &mut owners);
    }
    Ok(Division::Shards { process, processes, owners })
}

/// Deals shards out, the largest first, each to the process with the least work so far, the first of them where several
/// have: the longest-processing-time rule (R. L. Graham, 1969).
fn deal(mut shards: Vec<usize>, work: &[u64], processes: usize, owners: &mut [usize]) {
    shards.sort_by_key(|shard| Reverse(work[*shard]));
    let mut loads: BinaryHeap<Reverse<(u64, usize)>> = (0..processes).map(|process| Reverse((0, process))).collect();
    for shard in shards {
        let Some(Reverse((load, process))) = loads.pop() else { return };
        owners[shard] = process;
        loads.push(Reverse((load.saturating_add(work[shard].max(1)), process)));
    }
}

#[cfg(test)]
mod tests {
    use omar_stages::train::threads;

    use super::*;

    #[test]
    fn what_one_holds_is_its_own_and_the_rest_is_dealt_out_evenly() {
        // Nobody has the first two; all have the third; then those of process 1, of 1 and 2, nobody's, everybody's.
        let holders: [&[usize]; 7] = [&[], &[], &[0, 1, 2], &[1], &[1, 2], &[], &[0, 1, 2]];
        let work = |rank: &dyn Collective| {
            let held: Vec<bool> = holders.iter().map(|holders| holders.contains(&rank.rank())).collect();
            // What the first process says of the work counts.
            agree(&held, &vec![rank.rank() as u64; held.len()], rank).expect("nobody is lost")
        };
        let divisions: Vec<Division> = std::thread::scope(|scope| {
            let ranks: Vec<_> = threads(3).into_iter().map(|rank| scope.spawn(move || work(&rank))).collect();
            ranks.into_iter().map(|rank| rank.join().expect("no panic")).collect()
        });
        for (expected, division) in divisions.iter().enumerate() {
            let Division::Shards { process, processes, owners } = division else { panic!("{division:?}") };
            assert_eq!((*process, *processes, owners.as_slice()), (expected, 3, [0, 1, 0, 1, 1, 2, 1].as_slice()));
            assert!(division.keeps() && division.owns(3) == (expected == 1));
        }
    }

    #[test]
    fn all_have_as_much_work() {
        let work = [7, 1, 3, 9, 1, 2, 2, 5];
        let mut owners = vec![usize::MAX; work.len()];
        deal((0..work.len()).collect(), &work, 2, &mut owners);
        assert_eq!(owners, [1, 0, 0, 0, 1, 0, 1, 1]);
        let load =
            |process| work.iter().zip(&owners).filter(|(_, owner)| **owner == process).map(|(work, _)| work).sum();
        let loads: [u64; 2] = [load(0), load(1)];
        assert!(loads[0].abs_diff(loads[1]) <= 1, "{loads:?}");
        // Of no known size they are dealt out in turn.
        deal((0..5).collect(), &[0; 5], 3, &mut owners);
        assert_eq!(owners[..5], [0, 1, 2, 0, 1]);
    }

    #[test]
    fn who_trains_together_keeps_once() {
        let (first, second) = (Division::Whole { process: 0 }, Division::Whole { process: 1 });
        assert!(first.keeps() && !second.keeps());
        assert!(first.owns(7) && second.owns(7) && !first.is_divided());
        assert!(Division::Alone.keeps() && Division::Alone.owns(0));
    }
}
