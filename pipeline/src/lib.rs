//! x

pub mod cache;
pub mod catalogue;
