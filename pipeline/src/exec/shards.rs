//! The corpus cut into shards, and the passes over it.

mod appetite;
mod task;
mod trial;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use arrow::datatypes::SchemaRef;
use omar_stages::seed::Random;
use omar_stages::storage::{Commit, ShardKey};
use omar_stages::{Position, StageError};

pub(crate) use appetite::Appetite;
pub(crate) use task::ShardTask;

use super::RejectedTrack;
use super::codes::Standing;
use super::division::Division;
use super::network::{Mode, Network};
use crate::cache::Store;
use crate::commands::write_message;
use crate::corpus::Corpus;
use crate::plan::OnError;

/// Everything that is to be done: nodes, shards, caches, and who still wants more.
pub(crate) struct Course {
    pub(crate) network: Arc<Network>,
    pub(crate) corpus: Corpus,
    /// Cache of every node that has one.
    pub(crate) stores: Vec<Option<Arc<Store>>>,
    /// Appetite of every corpus stage.
    pub(crate) corpora: Vec<Option<Arc<Appetite>>>,
    /// The code counts of what was in the caches before the run.
    pub(crate) standing: Standing,
    /// Commits that are made again, by node and shard: they stand until better ones are there.
    pub(super) replaced: HashMap<(usize, usize), Commit>,
    /// What is committed, by node and shard.
    commits: RwLock<HashMap<(usize, usize), Commit>>,
    /// Committed shards whose bytes this run has checked, by node and shard.
    intact: Mutex<HashSet<(usize, usize)>>,
    seed: u64,
    /// The order of the shards in the newest pass that anybody asked for, if that is not the first.
    order: Mutex<(u32, Vec<u32>)>,
    /// What this process does of it. One that keeps nothing makes what its corpus stages want, and nothing else.
    pub(crate) division: Division,
    /// How much of the corpus it does.
    pub(crate) own: Extent,
}

/// Shards, and the recordings in them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) shards: u64,
    pub(crate) tracks: u64,
}

impl Course {
    /// Looks up what the caches hold.
    ///
    /// # Errors
    /// When a cache cannot be read.
    pub(crate) fn new(
        network: Arc<Network>,
        corpus: Corpus,
        stores: Vec<Option<Arc<Store>>>,
        corpora: Vec<Option<Arc<Appetite>>>,
        seed: u64,
        divide: impl FnOnce(&Self) -> Result<Division, StageError>,
    ) -> Result<Self, StageError> {
        let (standing, division, replaced) = (Standing::default(), Division::default(), HashMap::new());
        let (commits, intact, order) = (RwLock::default(), Mutex::default(), Mutex::default());
        let own = Extent::default();
        let mut course =
            Self { network, corpus, stores, corpora, standing, replaced, commits, intact, seed, order, division, own };
        let failed = |error: crate::cache::CacheError| StageError::Failed(error.to_string());
        for (node, store) in course.stores.clone().iter().enumerate() {
            let Some(store) = store else { continue };
            for shard in 0..course.corpus.shards.len() {
                if let Some(commit) = store.committed(&course.key(node, shard)).map_err(failed)? {
                    course.note(node, shard, commit);
                }
            }
        }
        course.division = divide(&course)?;
        course.own = course.extent();
        for (node, store) in course.stores.clone().iter().enumerate().filter(|_| course.division.keeps()) {
            let Some(store) = store else { continue };
            let keys = course.corpus.keys(node).to_vec();
            let own = keys.iter().enumerate().filter(|(shard, _)| course.division.owns(*shard));
            let own: Vec<_> = own.map(|(shard, key)| (key, course.commit(node, shard))).collect();
            course.standing.add(node, store, &keys, &own).map_err(failed)?;
        }
        Ok(course)
    }

    /// The shards of this process.
    fn extent(&self) -> Extent {
        let shards = self.corpus.shards.iter().enumerate().filter(|(shard, _)| self.division.owns(*shard));
        shards.fold(Extent::default(), |sum, (_, shard)| Extent {
            shards: sum.shards + 1,
            tracks: sum.tracks + shard.len() as u64,
        })
    }

    /// By shard: whether all caches have it.
    pub(crate) fn held(&self) -> Vec<bool> {
        (0..self.corpus.shards.len())
            .map(|shard| {
                let (cached, _) = self.tasks_at(shard);
                self.stores.iter().zip(cached).all(|(store, cached)| store.is_none() || cached)
            })
            .collect()
    }

    /// Whether this process works on an epoch. Only the first pass is divided: what comes back for more is shared as a
    /// whole.
    pub(crate) fn owns(&self, epoch: u64) -> bool {
        let at = self.position(epoch);
        at.pass > 0 || self.division.owns(at.shard as usize)
    }

    /// The name under which a node keeps a shard.
    pub(crate) fn key(&self, node: usize, shard: usize) -> ShardKey {
        self.corpus.key(node, shard)
    }

    /// A shard was committed.
    pub(crate) fn note(&self, node: usize, shard: usize, commit: Commit) {
        self.commits.write().unwrap_or_else(PoisonError::into_inner).insert((node, shard), commit);
    }

    pub(super) fn commit(&self, node: usize, shard: usize) -> Option<Commit> {
        self.commits.read().unwrap_or_else(PoisonError::into_inner).get(&(node, shard)).cloned()
    }

    /// How many of the shards of this process a node has committed.
    pub(crate) fn committed(&self, node: usize) -> u64 {
        let commits = self.commits.read().unwrap_or_else(PoisonError::into_inner);
        commits.keys().filter(|key| key.0 == node && self.division.owns(key.1)).count() as u64
    }

    /// Where the run starts: later than the beginning only if every corpus stage continues from there and nothing is
    /// left to cache.
    pub(crate) fn first_epoch(&self) -> u64 {
        let unfinished = |index| !self.tasks_at(index).1.is_empty();
        if self.division.is_divided() || (0..self.corpus.shards.len()).any(unfinished) {
            return 0;
        }
        self.corpora.iter().flatten().map(|appetite| self.epoch(appetite.start)).min().unwrap_or(0)
    }

    fn epoch(&self, at: Position) -> u64 {
        u64::from(at.pass) * self.corpus.shards.len() as u64 + u64::from(at.shard)
    }

    /// The position of an epoch.
    pub(crate) fn position(&self, epoch: u64) -> Position {
        let count = self.corpus.shards.len() as u64;
        Position { pass: (epoch / count) as u32, shard: (epoch % count) as u32 }
    }

    /// The shard of an epoch, or `None` when nobody wants anything of it.
    ///
    /// # Errors
    /// When a cache cannot be read.
    pub(crate) fn task(&self, epoch: u64) -> Result<Option<ShardTask>, StageError> {
        let position = self.position(epoch);
        let index = self.shard_at(position);
        let shard = self.corpus.shards[index].clone();
        if !self.division.keeps() && position.pass > 0 {
            self.look_again(index)?;
        }
        let (cached, commits) = self.tasks_at(index);
        let nodes = &self.network.nodes;
        let hungry: Vec<Option<Arc<Appetite>>> =
            self.corpora.iter().map(|a| a.as_ref().filter(|a| a.wants(position)).cloned()).collect();
        let modes = self.modes(position, &commits, |node| hungry[node].is_some(), |node| cached[node]);
        if modes.iter().all(|&mode| mode == Mode::Skip) {
            self.network.traffic.skip(position, shard.len());
            return Ok(None);
        }
        if self.retract_broken(index, &modes)? {
            return self.task(epoch);
        }
        self.network.traffic.open(epoch, position, &shard.name, shard.len());
        let readers = (0..nodes.len())
            .map(|node| match (&self.stores[node], modes[node]) {
                (Some(store), Mode::Replay) => self.commit(node, index).map(|commit| store.reader(&commit)).transpose(),
                _ => Ok(None),
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| StageError::Failed(error.to_string()))?;
        // Tokens are counted when they are committed, or else in the first pass.
        let counted = |node: usize| match self.stores[node] {
            Some(_) => commits.contains(&node),
            None => self.division.keeps() && position.pass == 0 && modes[node] == Mode::Compute,
        };
        let counts: Vec<usize> =
            (0..nodes.len()).filter(|&node| counted(node) && is_tokens(&nodes[node].schema)).collect();
        let keep = (0..nodes.len()).map(|node| commits.contains(&node) || counts.contains(&node)).collect();
        let results = (0..nodes.len()).any(|node| position.pass == 0 && self.is_result(node));
        let hungry = hungry.into_iter().flatten().collect();
        let sources = self.corpus.sources.clone();
        let task = ShardTask {
            epoch,
            position,
            shard,
            index,
            sources,
            modes,
            keep,
            commits,
            counts,
            results,
            readers,
            hungry,
        };
        Ok(Some(task))
    }

    /// Looks at the bytes that are about to be read, once in a run. What is not as it was committed is made again: then
    /// the modes are others.
    fn retract_broken(&self, index: usize, modes: &[Mode]) -> Result<bool, StageError> {
        let failed = |error: crate::cache::CacheError| StageError::Failed(error.to_string());
        let mut found = false;
        for (node, store) in self.stores.iter().enumerate().filter(|(node, _)| modes[*node] == Mode::Replay) {
            let (Some(store), Some(commit)) = (store, self.commit(node, index)) else { continue };
            let fresh = self.intact.lock().unwrap_or_else(PoisonError::into_inner).insert((node, index));
            if !fresh || store.is_intact(&commit) {
                continue;
            }
            let (id, file) = (&self.network.nodes[node].id, store.folder().join(&commit.file));
            let what = format!("node `{id}`: `{}` has other bytes than were committed", file.display());
            if !self.division.keeps() || !self.division.owns(index) {
                return Err(StageError::Failed(what));
            }
            write_message(&format!("note: {what}: made again\n"));
            store.retract(&commit).map_err(failed)?;
            self.commits.write().unwrap_or_else(PoisonError::into_inner).remove(&(node, index));
            found = true;
        }
        Ok(found)
    }

    /// What every node does for a shard.
    fn modes(
        &self,
        at: Position,
        commits: &[usize],
        hungry: impl Fn(usize) -> bool,
        cached: impl Fn(usize) -> bool,
    ) -> Vec<Mode> {
        let wanted = |node: usize| match self.network.nodes[node].is_corpus() {
            true => hungry(node),
            false => commits.contains(&node) || (at.pass == 0 && self.is_result(node)),
        };
        self.network.modes(wanted, cached)
    }

    /// Looks for what the process that writes has committed of a shard since this one began.
    fn look_again(&self, index: usize) -> Result<(), StageError> {
        for (node, store) in self.stores.iter().enumerate() {
            let Some(store) = store.as_ref().filter(|_| self.commit(node, index).is_none()) else { continue };
            let commit = store.committed(&self.key(node, index));
            let commit = commit.map_err(|error| StageError::Failed(error.to_string()))?;
            // What is being made again stands until that is there.
            if let Some(commit) = commit.filter(|commit| self.replaced.get(&(node, index)) != Some(commit)) {
                self.note(node, index, commit);
            }
        }
        Ok(())
    }

    /// Whether the graph ends with a node that keeps nothing, and this process makes its rows.
    fn is_result(&self, node: usize) -> bool {
        let description = &self.network.nodes[node];
        self.division.keeps()
            && description.consumers.is_empty()
            && !description.is_corpus()
            && self.stores[node].is_none()
    }

    /// Whether the tokens of a node in a complete shard count, asked after all corpus stages have come past the shard.
    /// They do not when the shard was begun only because others were ahead of a stage that then had enough: how far
    /// ahead they get is a matter of luck.
    pub(crate) fn counts(&self, task: &ShardTask, node: usize) -> bool {
        let hungry = |node: usize| self.corpora[node].as_ref().is_some_and(|appetite| appetite.wanted(task.position));
        let cached = |node: usize| self.stores[node].is_some() && !task.commits.contains(&node);
        task.commits.contains(&node) || self.modes(task.position, &task.commits, hungry, cached)[node] == Mode::Compute
    }

    /// Which nodes have shard `index` in their cache, and which have yet to commit it.
    fn tasks_at(&self, index: usize) -> (Vec<bool>, Vec<usize>) {
        let known = self.commits.read().unwrap_or_else(PoisonError::into_inner);
        let cached: Vec<bool> = (0..self.stores.len()).map(|node| known.contains_key(&(node, index))).collect();
        let commits = |node: &usize| self.division.keeps() && self.stores[*node].is_some() && !cached[*node];
        let commits = (0..cached.len()).filter(commits).collect();
        (cached, commits)
    }

    /// Rejections that the caches remember: recordings that need not be tried to be known as unusable.
    pub(crate) fn remembered_rejects(&self) -> Vec<RejectedTrack> {
        let commits = self.commits.read().unwrap_or_else(PoisonError::into_inner);
        let dropped = |id: &str| self.network.nodes.iter().any(|node| node.id == id && node.on_error == OnError::Drop);
        let of = |commit: &Commit| -> Vec<RejectedTrack> {
            let rejects = commit.rejects.iter().map(|record| RejectedTrack::from_record(record, &commit.shard));
            rejects.map(|reject| RejectedTrack { dropped: dropped(&reject.node), ..reject }).collect()
        };
        let own = commits.iter().filter(|(key, _)| self.division.owns(key.1));
        let mut rejects: Vec<RejectedTrack> = own.flat_map(|(_, commit)| of(commit)).collect();
        rejects.sort_by_key(|reject| reject.track_id);
        rejects.dedup_by_key(|reject| reject.track_id);
        rejects
    }

    /// Whether pass `pass` is needed after all passes before it.
    ///
    /// # Errors
    /// When a stage asks for another pass although the last one brought it nothing.
    pub(crate) fn wants_pass(&self, pass: u32) -> Result<bool, StageError> {
        if pass == 0 {
            return Ok(true);
        }
        for (index, appetite) in self.corpora.iter().enumerate() {
            let Some(appetite) = appetite.as_ref().filter(|a| a.repeats && !a.is_satisfied()) else { continue };
            if appetite.crops.load(Ordering::Relaxed) == 0 && pass > appetite.start.pass {
                let node = &self.network.nodes[index].id;
                let message = format!(
                    "a whole pass over the corpus brought no crop to `{node}`: see the rejects, the splits, and \
                     `min_duration` of the crops"
                );
                return Err(StageError::Failed(message));
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Whether a stage that wants pass after pass has not eaten anything yet, so that the next pass must wait until
    /// this one is through.
    pub(crate) fn is_first_bite_pending(&self) -> bool {
        self.corpora.iter().flatten().any(|a| a.repeats && a.crops.load(Ordering::Relaxed) == 0)
    }

    /// Whether a later pass comes to a shard that an earlier one may still be committing.
    pub(crate) fn is_uncommitted(&self, epoch: u64) -> bool {
        let at = self.position(epoch);
        at.pass > 0 && !self.tasks_at(self.shard_at(at)).1.is_empty()
    }

    /// The shard at a position. The first pass is in catalogue order; later ones are permuted, as a function of seed and
    /// pass alone.
    fn shard_at(&self, at: Position) -> usize {
        if at.pass == 0 {
            return at.shard as usize;
        }
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if order.0 != at.pass {
            *order = (at.pass, self.permutation(at.pass));
        }
        order.1[at.shard as usize] as usize
    }

    fn permutation(&self, pass: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..).take(self.corpus.shards.len()).collect();
        let mut random = Random::new(self.seed, &[0x5041_5353, u64::from(pass)]);
        for last in (1..order.len()).rev() {
            order.swap(last, random.below(last as u64 + 1) as usize);
        }
        order
    }

    /// Corpus stages that this process runs.
    pub(crate) fn corpus_nodes(&self) -> impl Iterator<Item = usize> {
        self.corpora.iter().enumerate().filter(|(_, appetite)| appetite.is_some()).map(|(node, _)| node)
    }
}

fn is_tokens(schema: &SchemaRef) -> bool {
    omar_schemas::edge_name(schema) == Some("tokens")
}
