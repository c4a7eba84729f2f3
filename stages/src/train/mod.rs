//! Loss, optimiser, schedule, checkpoints: everything that changes weights.
