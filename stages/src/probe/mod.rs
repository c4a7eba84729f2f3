//! Probes: how much of what people hear can be read off a representation.
//!
//! Pure maths, and a reader of label lists.
//!
//! - [`task`]: the six tasks of the paper: labels to targets, logits to figures
//! - [`mlp`], [`objective`], [`fit`]: the classifier of the published probes, its losses and its training
//! - [`logistic`]: the quick linear probe, multinomial logistic regression on standardised vectors, fitted to its optimum by
//!   [`lbfgs`], so that there is nothing to tune but the penalty and no random number at all; its [`labels`] and
//!   [`measures`]

mod backward;
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
