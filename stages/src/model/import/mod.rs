//! Reading the files of published models without PyTorch and without running anything they hold.
//!
//! A published model is a `config.gin` ([`gin`]) and a `model.ckpt`: a zip archive ([`torch`]) with the tensors' bytes and
//! a pickle ([`pickle`]) that says which bytes are which tensor. A pickle is a program; this one is interpreted on paper:
//! only the few operations that describe tensors are known, and whatever names anything else is refused.
//!
//! What the two files mean for an encoder is worked out in [`crate::encoder`].

mod error;
pub mod gin;
pub mod pickle;
pub mod torch;

pub use error::ImportError;
pub use torch::read_torch;
