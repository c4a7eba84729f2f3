//! Several processes that train one model: what they must exchange.
//!
//! Every process (a *rank*) holds the whole model and works on its share of each minibatch. A [`Collective`] adds up what
//! they find: gradients in buckets while the backward pass still runs, and a few small vectors on which the whole
//! minibatch has a say (losses, counts, the sums of batch normalisation).
//!
//! All ranks call the same operations in the same order; there are no tags. Sums are taken in the order of the ranks,
//! whatever arrives first, so that a run repeats bit by bit and all ranks hold the same bits.

#[cfg(feature = "nccl")]
mod nccl;
mod threads;

use crate::model::Across;
use candle_core::Tensor;
use std::fmt::Debug;
use std::sync::Arc;
use thiserror::Error;

#[cfg(feature = "nccl")]
pub use nccl::Nccl;
pub use threads::threads;

/// The ranks of one training run, seen from one of them.
///
/// Implementations are free in how they move data: [`Solo`] does not, [`threads`] connects the threads of a process, the
/// program connects processes over timely's network, and GPUs are connected by NCCL. An implementation for devices may
/// leave [`sum`](Self::sum), [`broadcast`](Self::broadcast) and [`barrier`](Self::barrier) to one for hosts, and take
/// its own unique id from a broadcast of it.
///
/// ```
/// use omar_stages::train::{Collective, threads};
/// use candle_core::{Device, Tensor};
///
/// let ranks = threads(2);
/// let work = |rank: Box<dyn Collective>| {
///     let bucket = Tensor::full(1.0 + rank.rank() as f32, 3, &Device::Cpu).unwrap();
///     let pending = rank.start_sum(bucket).unwrap(); // ... the backward pass goes on ...
///     pending.wait().unwrap().to_vec1::<f32>().unwrap()
/// };
/// let ranks: Vec<_> = ranks.into_iter().map(|rank| std::thread::spawn(move || work(Box::new(rank)))).collect();
/// for rank in ranks {
///     assert_eq!(rank.join().unwrap(), [3.0, 3.0, 3.0]);
/// }
/// ```
pub trait Collective: Debug + Send + Sync {
    /// Which of the ranks this is, from 0.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn size(&self) -> usize;

    /// Begins to add up a bucket over all ranks, and returns at once. `bucket (values)` is f32, contiguous, on the
    /// device of the model and of the same length on every rank. Several buckets may be under way.
    ///
    /// # Errors
    /// When the device fails, or a rank is known to be lost.
    fn start_sum(&self, bucket: Tensor) -> Result<Box<dyn Pending>, CollectiveError>;

    /// Adds up a small vector over all ranks, in place; waits for the result. All ranks give the same length.
    ///
    /// # Errors
    /// When a rank is lost, or calls another operation.
    fn sum(&self, values: &mut [f64]) -> Result<(), CollectiveError>;

    /// The bytes that rank 0 gives, on every rank. What the other ranks give is ignored.
    ///
    /// # Errors
    /// When a rank is lost, or calls another operation.
    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>, CollectiveError>;

    /// Waits until all ranks have come here.
    ///
    /// # Errors
    /// When a rank is lost, or calls another operation.
    fn barrier(&self) -> Result<(), CollectiveError> {
        self.sum(&mut [])
    }
}

/// A sum under way.
pub trait Pending: Debug + Send {
    /// The sum, `(values)` f32, on the device of the bucket.
    ///
    /// # Errors
    /// When a rank is lost, calls another operation, or the device fails.
    fn wait(self: Box<Self>) -> Result<Tensor, CollectiveError>;
}

/// Why ranks could not exchange something.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CollectiveError {
    /// A rank has gone, or cannot be reached.
    #[error("{0}")]
    Lost(String),
    /// Ranks called different operations, or gave different lengths.
    #[error("the processes are out of step: {0}")]
    OutOfStep(String),
    /// The device failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// The ranks as the model knows them: they share its minibatch.
#[derive(Debug)]
pub(super) struct Sharers(pub(super) Arc<dyn Collective>);

impl Across for Sharers {
    fn sum(&self, values: &mut [f64]) -> candle_core::Result<()> {
        self.0.sum(values).map_err(candle_core::Error::wrap)
    }
}

/// The only rank there is: nothing is exchanged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Solo;

impl Collective for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn start_sum(&self, bucket: Tensor) -> Result<Box<dyn Pending>, CollectiveError> {
        Ok(Box::new(Ready(bucket)))
    }

    fn sum(&self, _: &mut [f64]) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>, CollectiveError> {
        Ok(bytes)
    }
}

/// A sum that needs no waiting.
#[derive(Debug)]
struct Ready(Tensor);

impl Pending for Ready {
    fn wait(self: Box<Self>) -> Result<Tensor, CollectiveError> {
        Ok(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use std::thread;

    /// Runs `work` on every one of `size` ranks and returns what they found, by rank.
    fn on_ranks<T: Send>(size: usize, work: impl Fn(&dyn Collective) -> T + Sync) -> Vec<T> {
        thread::scope(|scope| {
            let work = &work;
            let ranks: Vec<_> = threads(size).into_iter().map(|rank| scope.spawn(move || work(&rank))).collect();
            ranks.into_iter().map(|rank| rank.join().expect("a rank ends well")).collect()
        })
    }

    #[test]
    fn buckets_overlap_and_all_ranks_get_the_same_bits() -> Result<(), CollectiveError> {
        let found = on_ranks(3, |rank| -> Result<Vec<Vec<f32>>, CollectiveError> {
            let bucket = |b: usize| (0..5).map(|i| 0.1 * ((rank.rank() * 7 + b * 3 + i) as f32)).collect::<Vec<f32>>();
            let started: Vec<Box<dyn Pending>> = (0..4)
                .map(|b| rank.start_sum(Tensor::from_vec(bucket(b), 5, &Device::Cpu)?))
                .collect::<Result<_, CollectiveError>>()?;
            let mut loss = [rank.rank() as f64, 1.0];
            rank.sum(&mut loss)?;
            assert_eq!(loss, [3.0, 3.0]);
            started.into_iter().map(|sum| Ok(sum.wait()?.to_vec1()?)).collect()
        });
        let first = found.into_iter().collect::<Result<Vec<_>, _>>()?;
        assert!(first.iter().all(|rank| rank == &first[0]));
        // In rank order: ((0 + a) + b) + c, in f32.
        let expected = (0.1 * 3.0f32 + 0.1 * 10.0f32) + 0.1 * 17.0f32;
        assert_eq!(first[0][1][0].to_bits(), expected.to_bits());
        Ok(())
    }

    #[test]
    fn rank_zero_speaks_for_all() {
        let heard = on_ranks(2, |rank| {
            rank.barrier().expect("both come");
            rank.broadcast(vec![7 + rank.rank() as u8]).expect("rank 0 speaks")
        });
        assert_eq!(heard, [[7], [7]]);
    }

    #[test]
    fn a_rank_that_goes_away_is_missed_by_the_others() {
        let [first, second]: [_; 2] = threads(2).try_into().expect("two ranks");
        drop(second);
        let error = first.sum(&mut [1.0]).expect_err("nobody answers");
        assert_eq!(error.to_string(), "rank 1 has ended");
    }

    #[test]
    fn ranks_out_of_step_are_told() {
        let errors = on_ranks(2, |rank| match rank.rank() {
            0 => rank.sum(&mut [1.0, 2.0]),
            _ => rank.sum(&mut [1.0]),
        });
        for error in errors {
            let error = error.expect_err("the lengths differ");
            assert_eq!(error.to_string(), "the processes are out of step: rank 0 gives 2 values, rank 1 gives 1");
        }
    }

    #[test]
    fn alone_a_sum_is_what_was_given() -> Result<(), CollectiveError> {
        let sum = Solo.start_sum(Tensor::new(&[1f32, 2.0], &Device::Cpu)?)?.wait()?;
        assert_eq!(sum.to_vec1::<f32>()?, [1.0, 2.0]);
        assert_eq!(Solo.broadcast(vec![1])?, [1]);
        Ok(())
    }
}
