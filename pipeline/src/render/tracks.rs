//! The operator that runs the track-level nodes: it sends lanes to the pool and hands on what they bring back, in the
//! order of the recordings.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, unbounded};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};
use timely::scheduling::activate::{Activator, SyncActivator};

use super::control::Fatal;
use super::corpus::CropItem;
use super::feed::{Budget, Permit};
use super::pool::{Done, Job};
use super::source::Epoch;
use crate::exec::lane::again::LOOK_EVERY;
use crate::exec::lane::{Advance, Lane};
use crate::exec::shards::{Course, ShardTask};
use crate::exec::traffic::Traffic;
use crate::exec::{Message, RejectedTrack};
use crate::stop::Stop;

/// What goes to the sink of rows.
pub(crate) enum Item {
    /// Something a lane produced.
    Message { task: Arc<ShardTask>, message: Message, permit: Permit },
    /// This worker has seen all of an epoch.
    End { epoch: u64, task: Option<Arc<ShardTask>> },
}

/// A rejected recording with the shard it belongs to; `None` ends the epoch.
pub(crate) type Error = (u64, String, Option<RejectedTrack>);

/// The outputs.
pub(crate) struct Streams<'scope> {
    pub(crate) rows: StreamVec<'scope, u64, Item>,
    /// One per corpus node.
    pub(crate) crops: Vec<StreamVec<'scope, u64, CropItem>>,
    pub(crate) errors: StreamVec<'scope, u64, Error>,
}

/// How the memory of a run is shared out: half for lanes that wait their turn, half for rows on their way to sinks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes after which a lane is put aside.
    lane: usize,
    /// Bytes that finished recordings may hold while an earlier one is not finished.
    waiting: usize,
    /// Bytes on their way to the sinks of one worker.
    sinks: usize,
}

impl Limits {
    pub(crate) fn new(memory: u64, workers: usize, lanes: usize) -> Self {
        let share = usize::try_from(memory).unwrap_or(usize::MAX) / workers;
        Self { lane: (share / 4 / lanes).max(1 << 20), waiting: share / 4, sinks: share / 2 }
    }
}

pub(crate) struct Context {
    pub(crate) course: Arc<Course>,
    pub(crate) jobs: Sender<Job>,
    pub(crate) lanes: usize,
    pub(crate) limits: Limits,
    pub(crate) stop: Stop,
    pub(crate) fatal: Fatal,
    /// Epochs that this worker is through with.
    pub(crate) ended: Rc<Cell<u64>>,
}

/// An epoch and the right to emit in it, one capability per output.
struct Ticket {
    epoch: u64,
    task: Option<Arc<ShardTask>>,
    capabilities: Vec<Capability<u64>>,
}

/// A recording under way, in the order of admission.
struct Slot {
    id: u64,
    ticket: Rc<Ticket>,
    messages: VecDeque<Message>,
    state: State,
}

enum State {
    Running,
    Parked(Box<Lane>),
    /// Its recording is tried again, at this time.
    Paused(Box<Lane>, Instant),
    Complete,
    /// Not a recording: the end of the ticket's epoch.
    EndOfEpoch,
}

pub(crate) fn tracks<'scope>(
    scope: Scope<'scope, u64>,
    shards: StreamVec<'scope, u64, Epoch>,
    context: Context,
) -> Streams<'scope> {
    let corpora: Vec<usize> = context.course.corpus_nodes().collect();
    let mut builder = OperatorBuilder::new("tracks".to_owned(), scope);
    let info = builder.operator_info();
    let mut input = builder.new_input(shards, Pipeline);
    let (rows, rows_stream) = builder.new_output::<Vec<Item>>();
    let mut rows = OutputBuilder::<_, CapacityContainerBuilder<Vec<Item>>>::from(rows);
    let (errors, errors_stream) = builder.new_output::<Vec<Error>>();
    let mut errors = OutputBuilder::<_, CapacityContainerBuilder<Vec<Error>>>::from(errors);
    let mut crops = Vec::new();
    let mut crops_streams = Vec::new();
    for _ in &corpora {
        let (output, stream) = builder.new_output::<Vec<CropItem>>();
        crops.push(OutputBuilder::<_, CapacityContainerBuilder<Vec<CropItem>>>::from(output));
        crops_streams.push(stream);
    }
    let ports = 2 + corpora.len();
    let wake = scope.worker().sync_activator_for(info.address.to_vec());
    let activator = scope.activator_for(info.address);
    let mut tracks = Tracks::new(context, wake, activator);
    builder.build(move |initial| {
        drop(initial);
        move |_frontiers| {
            input.for_each(|stamp, epochs| {
                for (epoch, task) in epochs.drain(..) {
                    let capabilities = (0..ports).filter_map(|port| stamp.retain_least(port)).collect();
                    tracks.waiting.push_back((Rc::new(Ticket { epoch, task, capabilities }), 0));
                }
            });
            tracks.collect();
            tracks.try_again();
            let (mut rows, mut errors) = (rows.activate(), errors.activate());
            let mut crops: Vec<_> = crops.iter_mut().map(OutputBuilder::activate).collect();
            while let Some((ticket, emit)) = tracks.next() {
                match emit {
                    Emit::Message(message, permit) => {
                        let task = ticket.task.clone().expect("messages come from a task");
                        if let Message::End { rejected: Some(reject) } = &message {
                            let shard = task.shard.name.clone();
                            let error = (ticket.epoch, shard, Some(reject.clone()));
                            errors.session(&ticket.capabilities[1]).give(error);
                        }
                        match message {
                            Message::Crops { node, batches } => {
                                let at = corpora.iter().position(|c| *c == node).expect("crops go to corpus nodes");
                                let (epoch, position) = (task.epoch, task.position);
                                let item = CropItem::Crops { epoch, position, batches, permit: Some(permit) };
                                crops[at].session(&ticket.capabilities[2 + at]).give(item);
                            }
                            message => {
                                rows.session(&ticket.capabilities[0]).give(Item::Message { task, message, permit });
                            }
                        }
                    }
                    Emit::End => {
                        let epoch = ticket.epoch;
                        rows.session(&ticket.capabilities[0]).give(Item::End { epoch, task: ticket.task.clone() });
                        for (at, output) in crops.iter_mut().enumerate() {
                            output.session(&ticket.capabilities[2 + at]).give(CropItem::End { epoch });
                        }
                        if let Some(task) = &ticket.task {
                            let end = (ticket.epoch, task.shard.name.clone(), None);
                            errors.session(&ticket.capabilities[1]).give(end);
                        }
                    }
                }
            }
            tracks.admit();
        }
    });
    Streams { rows: rows_stream, crops: crops_streams, errors: errors_stream }
}

/// The state of the operator.
struct Tracks {
    context: Context,
    /// Epochs not fully admitted, with the next recording of each.
    waiting: VecDeque<(Rc<Ticket>, usize)>,
    slots: VecDeque<Slot>,
    next_id: u64,
    idle: Vec<Lane>,
    back: Sender<Done>,
    done: Receiver<Done>,
    held: usize,
    budget: Budget,
    wake: SyncActivator,
    activator: Activator,
    /// Lanes that pause, and when they are looked at next.
    paused: usize,
    looks_at: Option<Instant>,
}

enum Emit {
    Message(Message, Permit),
    End,
}

impl Tracks {
    fn new(context: Context, wake: SyncActivator, activator: Activator) -> Self {
        let (back, done) = unbounded();
        let idle = (0..context.lanes).map(|_| Lane::new(context.course.network.clone())).collect();
        let room = wake.clone();
        let budget = Budget::new(context.limits.sinks, context.course.network.clone(), move || {
            // Fails only when the worker has gone.
            let _gone = room.activate();
        });
        Self {
            context,
            waiting: VecDeque::new(),
            slots: VecDeque::new(),
            next_id: 0,
            idle,
            back,
            done,
            held: 0,
            budget,
            wake,
            activator,
            paused: 0,
            looks_at: None,
        }
    }

    /// Takes back the lanes that the pool has advanced.
    fn collect(&mut self) {
        while let Ok(Done { slot, lane, advance }) = self.done.try_recv() {
            let first = self.slots.front().map_or(0, |slot| slot.id);
            let slot = &mut self.slots[(slot - first) as usize];
            let Some(mut lane) = lane else {
                self.context.fatal.set(advance.err().unwrap_or_else(|| unreachable!("a lost lane has an error")));
                continue;
            };
            let (messages, bytes) = lane.drain();
            slot.messages.extend(messages);
            self.held += bytes;
            self.context.course.network.traffic.hold(bytes);
            match advance {
                Ok(Advance::Complete) => {
                    slot.state = State::Complete;
                    self.idle.push(lane);
                }
                Ok(Advance::Full) => slot.state = State::Parked(Box::new(lane)),
                Ok(Advance::Pauses(due)) => {
                    slot.state = State::Paused(Box::new(lane), due);
                    self.paused += 1;
                }
                Err(error) => self.context.fatal.set(error),
            }
        }
    }

    /// Sends the lanes whose pause is over to the pool; all of them when the run is being stopped.
    fn try_again(&mut self) {
        if self.paused == 0 {
            return;
        }
        let (now, stopped) = (Instant::now(), self.context.stop.is_requested());
        let (mut due, mut waits) = (Vec::new(), None);
        for slot in &mut self.slots {
            match std::mem::replace(&mut slot.state, State::Running) {
                State::Paused(lane, at) if stopped || at <= now => due.push((slot.id, lane)),
                other => {
                    if let State::Paused(_, at) = &other {
                        waits = Some(waits.map_or(*at, |first: Instant| first.min(*at)));
                    }
                    slot.state = other;
                }
            }
        }
        self.paused -= due.len();
        due.into_iter().for_each(|(slot, lane)| self.submit(slot, *lane));
        // One timer at a time, and none that a wish to stop would have to wait for.
        if let Some(first) = waits.filter(|_| self.looks_at.is_none_or(|at| at <= now)) {
            let pause = first.saturating_duration_since(now).min(LOOK_EVERY);
            self.looks_at = Some(now + pause);
            self.activator.activate_after(pause);
        }
    }

    /// The next thing to emit: only ever from the oldest recording, so that the order is that of the shard.
    fn next(&mut self) -> Option<(Rc<Ticket>, Emit)> {
        loop {
            let slot = self.slots.front_mut()?;
            if let Some(message) = slot.messages.front() {
                let bytes = message.bytes();
                let Some(permit) = self.budget.take(bytes) else {
                    let node = message.origin(&self.context.course.network);
                    self.traffic().refuse(node);
                    return None;
                };
                self.held = self.held.saturating_sub(bytes);
                self.context.course.network.traffic.release(bytes);
                self.context.course.network.traffic.accept();
                let message = slot.messages.pop_front().expect("it was there");
                return Some((slot.ticket.clone(), Emit::Message(message, permit)));
            }
            match std::mem::replace(&mut slot.state, State::Running) {
                State::Running => return None,
                paused @ State::Paused(..) => {
                    slot.state = paused;
                    return None;
                }
                State::Parked(lane) => {
                    let id = slot.id;
                    self.submit(id, *lane);
                    return None;
                }
                State::Complete => {
                    self.slots.pop_front();
                }
                State::EndOfEpoch => {
                    let slot = self.slots.pop_front().expect("it was there");
                    self.context.ended.set(self.context.ended.get() + 1);
                    return Some((slot.ticket, Emit::End));
                }
            }
        }
    }

    /// Starts recordings while there are lanes and room for what they bring.
    fn admit(&mut self) {
        self.traffic().crowd(false);
        while let Some((ticket, track)) = self.waiting.front_mut() {
            let (ticket, track) = (ticket.clone(), std::mem::replace(track, *track + 1));
            let task = ticket.task.as_ref().filter(|task| {
                let stopped = self.context.stop.is_requested() && task.commits.is_empty();
                track < task.shard.len() && task.is_wanted() && !stopped && !self.context.fatal.is_set()
            });
            let Some(task) = task.cloned() else {
                self.waiting.pop_front();
                self.push_slot(ticket, State::EndOfEpoch);
                // The end of an epoch can be emitted at once if nothing is ahead of it.
                self.activator.activate();
                continue;
            };
            let room = self.held < self.context.limits.waiting;
            let Some(mut lane) = (if room { self.idle.pop() } else { None }) else {
                if let Some(next) = self.waiting.front_mut() {
                    next.1 = track;
                }
                self.traffic().crowd(true);
                return;
            };
            lane.start(task, track);
            let id = self.push_slot(ticket, State::Running);
            self.submit(id, lane);
        }
    }

    fn traffic(&self) -> &Traffic {
        &self.context.course.network.traffic
    }

    fn push_slot(&mut self, ticket: Rc<Ticket>, state: State) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.slots.push_back(Slot { id, ticket, messages: VecDeque::new(), state });
        id
    }

    fn submit(&self, slot: u64, lane: Lane) {
        let job = Job { slot, lane, limit: self.context.limits.lane, back: self.back.clone(), wake: self.wake.clone() };
        // The queue has room for every lane there is; it is closed only after all workers have gone.
        let _sent = self.context.jobs.try_send(job);
    }
}
