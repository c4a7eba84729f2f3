//! Linear probes: how much of what people hear can be read off a representation by a plane.
//!
//! Pure maths, and a reader of label lists. A probe is multinomial logistic regression on standardised vectors, fitted to
//! its optimum by L-BFGS, so that there is nothing to tune but the penalty, which the `valid` split chooses, and no random
//! number at all: differences between representations are theirs.
//!
//! - [`labels`]: who said what about which recording, as classes of recordings or of frames
//! - [`logistic`]: the regression, on [`lbfgs`]
//! - [`measures`]: accuracy, average precision, peaks and their F-measure

mod error;
pub mod fit;
pub mod labels;
pub mod lbfgs;
pub mod logistic;
pub mod measures;
pub mod mlp;
pub mod objective;
pub mod task;

pub use error::ProbeError;
