//! A shuffled stream that can be taken up again at any place.
//!
//! Items arrive in a repeatable order, each with its place (pass, shard). Every run of `capacity` items of one pass is a
//! block; a block that is complete is put into a random order, a function of the seed and of where it starts. So the
//! stream of what is taken depends on the seed and the arriving order only, and a [`Cursor`] of a few numbers, not the
//! items themselves, is enough to continue it: start at its shard, skip what lies before the block, and leave out of the
//! block what had been taken.

use crate::model::Stream;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Where in the arriving stream an item stands: pass over the corpus, and shard of the pass.
pub type Place = (u32, u32);

/// Where the next item to be taken comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// Pass in which its block starts.
    pub pass: u32,
    /// Shard in which its block starts.
    pub shard: u32,
    /// Items of that shard before the block.
    pub skip: u64,
    /// Items of the block that have been taken.
    pub taken: u64,
}

/// The stream.
#[derive(Debug)]
pub struct Shuffle<T> {
    seed: u64,
    capacity: usize,
    /// The block that is being filled, and where it starts.
    block: Vec<T>,
    start: Cursor,
    /// Shuffled items, each with its cursor.
    ready: VecDeque<(T, Cursor)>,
    /// Place of the latest item, and the items of its shard so far.
    place: Place,
    arrived: u64,
    /// What was there before: items of the first shard to skip, items of the first block to leave out.
    resumed: Option<Cursor>,
}

impl<T> Shuffle<T> {
    /// The stream that continues at `cursor`; `Cursor::default()` is its beginning. `capacity` is at least one item.
    ///
    /// The first item to be pushed must be the first of the cursor's shard.
    pub fn new(seed: u64, capacity: usize, cursor: Cursor) -> Self {
        Self {
            seed,
            capacity: capacity.max(1),
            block: Vec::new(),
            start: cursor,
            ready: VecDeque::new(),
            place: (cursor.pass, cursor.shard),
            arrived: 0,
            resumed: (cursor != Cursor::default()).then_some(cursor),
        }
    }

    /// Adds the next item. The items of an earlier pass are then complete, even if they fill no block.
    pub fn push(&mut self, place: Place, item: T) {
        if place != self.place {
            if place.0 != self.place.0 {
                self.close();
            }
            (self.place, self.arrived) = (place, 0);
        }
        self.arrived += 1;
        if self.resumed.is_some_and(|at| place == (at.pass, at.shard) && self.arrived <= at.skip) {
            return;
        }
        if self.block.is_empty() {
            self.start = Cursor { pass: place.0, shard: place.1, skip: self.arrived - 1, taken: 0 };
        }
        self.block.push(item);
        if self.block.len() == self.capacity {
            self.close();
        }
    }

    /// Shuffles the block and makes it ready.
    fn close(&mut self) {
        if self.block.is_empty() {
            return;
        }
        let order = Stream::new(self.seed, "shuffle")
            .at(u64::from(self.start.pass))
            .at(u64::from(self.start.shard))
            .at(self.start.skip)
            .permutation(self.block.len());
        let mut ranked: Vec<(usize, T)> = order.into_iter().zip(self.block.drain(..)).collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        let before = self.resumed.take().map_or(0, |at| at.taken);
        let items = ranked.into_iter().map(|(rank, item)| (item, Cursor { taken: rank as u64, ..self.start }));
        self.ready.extend(items.filter(|(_, cursor)| cursor.taken >= before));
    }

    /// The next `n` items, once there are as many.
    pub fn take(&mut self, n: usize) -> Option<Vec<T>> {
        if !self.has(n) {
            return None;
        }
        Some(self.ready.drain(..n).map(|(item, _)| item).collect())
    }

    /// Whether [`Shuffle::take`] of `n` items would give them.
    pub fn has(&self, n: usize) -> bool {
        self.ready.len() >= n
    }

    /// Where to continue: the cursor of the next item to be taken.
    pub fn cursor(&self) -> Cursor {
        match (self.ready.front(), self.resumed) {
            (Some((_, cursor)), _) => *cursor,
            // Nothing has become ready since the stream was taken up.
            (None, Some(at)) => at,
            (None, None) if !self.block.is_empty() => self.start,
            (None, None) => Cursor { pass: self.place.0, shard: self.place.1, skip: self.arrived, taken: 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A corpus of shards with these numbers of items; an item is (pass, shard, index).
    const SHARDS: [u64; 4] = [5, 0, 9, 3];

    fn stream(from: Place) -> impl Iterator<Item = (Place, (u32, u32, u64))> {
        (from.0..).flat_map(move |pass| {
            let first = if pass == from.0 { from.1 } else { 0 };
            (first..4)
                .flat_map(move |shard| (0..SHARDS[shard as usize]).map(move |i| ((pass, shard), (pass, shard, i))))
        })
    }

    /// Takes `steps` minibatches of `n` from a shuffle, feeding it as needed.
    fn run(shuffle: &mut Shuffle<(u32, u32, u64)>, steps: usize, n: usize) -> Vec<Vec<(u32, u32, u64)>> {
        let cursor = shuffle.cursor();
        let mut items = stream((cursor.pass, cursor.shard));
        let mut taken = Vec::new();
        while taken.len() < steps {
            match shuffle.take(n) {
                Some(minibatch) => taken.push(minibatch),
                None => {
                    let (place, item) = items.next().expect("the stream is endless");
                    shuffle.push(place, item);
                }
            }
        }
        taken
    }

    #[test]
    fn every_pass_brings_every_item_once_in_a_new_order() {
        for capacity in [1, 4, 6, 100] {
            let mut shuffle = Shuffle::new(3, capacity, Cursor::default());
            let taken: Vec<_> = run(&mut shuffle, 34, 1).into_iter().flatten().collect();
            let mut orders = Vec::new();
            for pass in 0..2 {
                let order: Vec<_> = taken[17 * pass..17 * (pass + 1)].iter().map(|(_, s, i)| (*s, *i)).collect();
                let mut sorted = order.clone();
                sorted.sort_unstable();
                sorted.dedup();
                assert_eq!(sorted.len(), 17);
                assert!(taken[17 * pass..17 * (pass + 1)].iter().all(|item| item.0 == pass as u32));
                orders.push(order);
            }
            assert_eq!(orders[0] == orders[1], capacity == 1);
        }
    }

    #[test]
    fn a_cursor_continues_the_stream_wherever_it_was_left() {
        for (capacity, n) in [(1, 1), (4, 3), (6, 2), (8, 16), (100, 3)] {
            let whole = run(&mut Shuffle::new(5, capacity, Cursor::default()), 40, n);
            for stop in 0..20 {
                let mut first = Shuffle::new(5, capacity, Cursor::default());
                run(&mut first, stop, n);
                let cursor = first.cursor();
                let json = serde_json::to_value(cursor).expect("a cursor is JSON");
                let mut second = Shuffle::new(5, capacity, serde_json::from_value(json).expect("and back"));
                let rest = run(&mut second, 20, n);
                assert_eq!(rest, whole[stop..stop + 20], "capacity {capacity}, minibatch {n}, stopped at {stop}");
                // Stopping again at once, before anything has become ready, loses nothing either.
                let again = Shuffle::<()>::new(5, capacity, cursor);
                assert_eq!(again.cursor(), cursor);
            }
        }
    }
}
