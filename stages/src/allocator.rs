//! The allocator of the program and of its benchmarks.
//!
//! Blocks of samples, crops and activations are megabytes that come and go: with glibc's malloc every one of them is
//! mapped and faulted in anew. mimalloc keeps them, but gives back to the system what has been free for a second, which
//! is about the length of a training step: its buffers would be cleared page by page in every step again.

#![allow(unsafe_code, reason = "mimalloc's options can be set through its C interface only")]

use std::ffi::{c_int, c_long};

pub use mimalloc::MiMalloc;

/// `mi_option_purge_delay` of `mimalloc.h`: after how many milliseconds free memory is given back.
const PURGE_DELAY: c_int = 15;

/// Longer than a step of training; short enough that what a run no longer needs is given back.
const KEPT_MS: c_long = 60_000;

unsafe extern "C" {
    fn mi_option_get(option: c_int) -> c_long;
    fn mi_option_set_default(option: c_int, value: c_long);
}

/// Keeps freed memory for a minute, so that a training step takes the buffers of the step before. The environment
/// variable `MIMALLOC_PURGE_DELAY` has precedence. For programs whose allocator is [`MiMalloc`]; for others it does nothing.
pub fn keep_freed_memory() {
    // SAFETY: both functions read and write static variables of mimalloc. Reading first makes it look at the environment,
    // after which the default takes effect only where that is silent.
    unsafe {
        mi_option_get(PURGE_DELAY);
        mi_option_set_default(PURGE_DELAY, KEPT_MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purge_delay() -> c_long {
        // SAFETY: as above.
        unsafe { mi_option_get(PURGE_DELAY) }
    }

    /// The number of the option is a matter of mimalloc's version: seen from outside, by the name it has there.
    #[test]
    fn the_option_is_the_one_that_the_environment_sets() {
        const NAME: &str = "MIMALLOC_PURGE_DELAY";
        const SET: c_long = 4321;
        if std::env::var(NAME).is_ok_and(|set| set == SET.to_string()) {
            keep_freed_memory();
            assert_eq!(purge_delay(), SET, "the environment has precedence");
            return;
        }
        let this = std::env::current_exe().unwrap();
        let test = "allocator::tests::the_option_is_the_one_that_the_environment_sets";
        let child =
            std::process::Command::new(this).args(["--exact", test]).env(NAME, SET.to_string()).output().unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && said.contains("1 passed"), "{said}");
        if std::env::var_os(NAME).is_none() {
            keep_freed_memory();
            assert_eq!(purge_delay(), KEPT_MS);
        }
    }
}
