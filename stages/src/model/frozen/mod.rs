//! Models that no longer learn, on the CPU.
//!
//! Weights are laid out once for products with many inputs, what follows a product is done while its results are in the
//! cache, and nothing is kept for a backward pass. Validation lays a block out when its turn comes; an encoder that makes
//! embeddings is laid out when it is loaded, and holds its weights in this form alone.

mod conformer;
mod map;

pub(super) use conformer::FrozenBlock;
pub(crate) use conformer::FrozenEncoder;
pub(crate) use map::Map;
use map::Norm;
