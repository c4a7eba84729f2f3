//! What all benchmarks measure: processor time, memory, medians. With the allocator that the program has.

#![allow(dead_code, reason = "every benchmark uses a part of it")]

use omar_stages::allocator::MiMalloc;
pub(crate) use omar_stages::allocator::keep_freed_memory;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Milliseconds of processor time of all threads so far, where the system tells.
pub(crate) fn processor_ms() -> Option<f64> {
    let mut total = 0.0;
    for thread in std::fs::read_dir("/proc/self/task").ok()? {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        total += text.split_whitespace().next()?.parse::<f64>().ok()?;
    }
    Some(total / 1e6)
}

/// Milliseconds of processor time of `work`, or of the clock where the system does not tell.
pub(crate) fn spent_ms<E>(work: impl FnOnce() -> Result<(), E>) -> Result<f64, E> {
    let (start, clock) = (processor_ms(), std::time::Instant::now());
    work()?;
    let clock = clock.elapsed().as_secs_f64() * 1e3;
    Ok(start.zip(processor_ms()).map_or(clock, |(start, end)| end - start))
}

/// The middle one; 0 of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// A line of `/proc/self/status` in megabytes, such as `VmHWM`; 0 where there is none.
pub(crate) fn resident_mb(what: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}
