//! One file per stage kind.
