//! x

pub mod catalogue;
