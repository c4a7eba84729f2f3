//! The direct executor: one thread, one loop, no dataflow engine.
//!
//! It is the oracle: whatever engine runs a plan must give the same bytes as this.

use std::sync::Arc;

use super::codes::CodeTotals;
use super::corpus::CorpusRunner;
use super::lane::{Advance, Lane, again};
use super::shards::{Course, ShardTask};
use super::sinks::Recorder;
use super::{Message, RunError};
use crate::quarantine::Quarantine;
use crate::stop::Stop;

/// How many bytes a lane may hold before they are consumed.
const OUTBOX: usize = 8 << 20;

/// Runs a course to its end.
pub(crate) fn run(
    course: &Course,
    recorder: &mut Recorder,
    quarantine: &Quarantine,
    codes: &CodeTotals,
    corpora: &mut [CorpusRunner],
    stop: &Stop,
) -> Result<(), RunError> {
    course.standing.changes.iter().for_each(|change| codes.apply(change.codes()));
    for reject in course.remembered_rejects() {
        quarantine.add(u64::MAX, &reject)?;
    }
    quarantine.commit(u64::MAX, "cached")?;
    let mut lane = Lane::new(course.network.clone());
    let mut epoch = course.first_epoch();
    let failed = |source: omar_stages::StageError| RunError::Failed(source.to_string());
    while course.wants_pass(course.position(epoch).pass).map_err(failed)? && !stop.is_requested() {
        if let Some(task) = course.task(epoch).map_err(failed)? {
            let task = Arc::new(task);
            run_shard(&task, &mut lane, recorder, quarantine, corpora, stop)?;
            let changes = recorder.close(&task)?;
            let counted = changes.iter().filter(|change| course.counts(&task, change.node));
            counted.for_each(|change| codes.apply(change.codes()));
            quarantine.commit(task.epoch, &task.shard.name)?;
        }
        epoch += 1;
    }
    for corpus in corpora {
        if stop.is_requested() { corpus.interrupt()? } else { corpus.finish()? }
    }
    Ok(())
}

fn run_shard(
    task: &Arc<ShardTask>,
    lane: &mut Lane,
    recorder: &mut Recorder,
    quarantine: &Quarantine,
    corpora: &mut [CorpusRunner],
    stop: &Stop,
) -> Result<(), RunError> {
    recorder.open(task)?;
    for track in 0..task.shard.len() {
        if !task.is_wanted() || (stop.is_requested() && task.commits.is_empty()) {
            break;
        }
        lane.start(task.clone(), track);
        loop {
            let advance = lane.advance(OUTBOX, &|| false)?;
            for message in lane.drain().0 {
                match message {
                    Message::Crops { node, batches } => {
                        let corpus = corpora.iter_mut().find(|corpus| corpus.node() == node);
                        corpus.expect("every corpus node has a runner").push(task.position, &batches)?;
                    }
                    message => {
                        if let Message::End { rejected: Some(reject) } = &message {
                            quarantine.add(task.epoch, reject)?;
                        }
                        recorder.take(task, message)?;
                    }
                }
            }
            match advance {
                Advance::Complete => break,
                Advance::Full => {}
                Advance::Pauses(due) => again::wait(due, stop),
            }
        }
    }
    Ok(())
}
