//! Patches to tokens: random projection.
