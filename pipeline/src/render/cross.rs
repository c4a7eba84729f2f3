//! Rows on their way from the process that made them to the one whose corpus stage wants them.
//!
//! They are packed as Arrow IPC streams, one piece for every batch that a lane gave, and all go to the first worker of
//! the first process. There they wait until their epoch's turn has come: epochs of different workers arrive in any order.

use std::collections::{BTreeMap, VecDeque};
use std::io::Cursor;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use omar_stages::Position;
use timely::container::{CapacityContainerBuilder, NoopBuilder};
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::{Scope, Stream, StreamVec};

use super::control::Fatal;
use super::corpus::CropItem;
use super::parcel::{Kind, Parcel, Payload, Piece, to_owner};
use crate::exec::RunError;
use crate::exec::shards::Course;

/// Brings the crops of all workers to the first one, in the order of the epochs.
pub(crate) fn gather<'scope>(
    scope: Scope<'scope, u64>,
    crops: StreamVec<'scope, u64, CropItem>,
    course: &Arc<Course>,
    fatal: &Fatal,
) -> StreamVec<'scope, u64, CropItem> {
    let parcels = pack(scope, crops, fatal.clone());
    in_order(parcels, course.clone(), fatal.clone())
}

fn pack<'scope>(
    scope: Scope<'scope, u64>,
    crops: StreamVec<'scope, u64, CropItem>,
    fatal: Fatal,
) -> Stream<'scope, u64, Parcel> {
    let me = scope.index();
    crops.unary::<NoopBuilder<Parcel>, _, _, _>(Pipeline, "pack", move |_, _| {
        move |input, output| {
            input.for_each(|stamp, items| {
                let Some(capability) = stamp.retain_least(0) else { return };
                let mut session = output.session_with_builder(&capability);
                for item in items.drain(..) {
                    let (call, kind, bytes) = match item {
                        CropItem::Crops { epoch, batches, .. } => match encode(&batches) {
                            Ok(bytes) => (epoch, Kind::Rows, bytes),
                            Err(error) => {
                                fatal.set(RunError::Failed(format!("rows cannot be packed: {error}")));
                                continue;
                            }
                        },
                        CropItem::End { epoch } => (epoch, Kind::End, Vec::new()),
                    };
                    let (total, payload) = (bytes.len(), Payload::Bytes(Arc::new(bytes)));
                    session.give_container(&mut Parcel::of(Piece { call, kind, from: me, to: 0, total, payload }));
                }
            });
        }
    })
}

/// What has come of an epoch, with the right to send it on.
struct Waiting {
    capability: Capability<u64>,
    items: VecDeque<CropItem>,
}

/// Unpacks parcels, and lets an epoch through when all before it have ended.
fn in_order<'scope>(
    parcels: Stream<'scope, u64, Parcel>,
    course: Arc<Course>,
    fatal: Fatal,
) -> StreamVec<'scope, u64, CropItem> {
    let mut waiting: BTreeMap<u64, Waiting> = BTreeMap::new();
    let mut next = course.first_epoch();
    parcels.unary_frontier::<CapacityContainerBuilder<Vec<CropItem>>, _, _, _>(to_owner(), "in order", move |_, _| {
        move |(input, frontier), output| {
            input.for_each(|stamp, parcel| {
                let (Some(piece), Some(capability)) = (parcel.take(), stamp.retain_least(0)) else { return };
                let item = match unpack(&piece, course.position(piece.call)) {
                    Ok(item) => item,
                    Err(error) => return fatal.set(RunError::Failed(format!("rows of another process: {error}"))),
                };
                let fresh = || Waiting { capability, items: VecDeque::new() };
                waiting.entry(piece.call).or_insert_with(fresh).items.push_back(item);
            });
            while let Some(mut turn) = waiting.first_entry() {
                // An epoch that a stopped worker has not begun never comes.
                let over = frontier.frontier().first().is_none_or(|low| low >= turn.key());
                if *turn.key() > next && !over {
                    break;
                }
                next = *turn.key();
                let turn = turn.get_mut();
                let ended = turn.items.iter().any(|item| matches!(item, CropItem::End { .. }));
                output.session(&turn.capability).give_iterator(turn.items.drain(..));
                if !ended {
                    break;
                }
                waiting.remove(&next);
                next += 1;
            }
        }
    })
}

fn unpack(piece: &Piece, position: Position) -> Result<CropItem, ArrowError> {
    let epoch = piece.call;
    match piece.kind {
        Kind::Rows => Ok(CropItem::Crops { epoch, position, batches: decode(piece.payload.bytes())?, permit: None }),
        _ => Ok(CropItem::End { epoch }),
    }
}

/// One IPC stream after the other, each after its length.
fn encode(batches: &[RecordBatch]) -> Result<Vec<u8>, ArrowError> {
    let mut bytes = Vec::new();
    for batch in batches {
        let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref())?;
        writer.write(batch)?;
        let stream = writer.into_inner()?;
        bytes.extend((stream.len() as u64).to_le_bytes());
        bytes.extend(stream);
    }
    Ok(bytes)
}

fn decode(mut bytes: &[u8]) -> Result<Vec<RecordBatch>, ArrowError> {
    let mut batches = Vec::new();
    let short = || ArrowError::IpcError("a batch is cut off".to_owned());
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(short)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (stream, rest) = rest.split_at_checked(length).ok_or_else(short)?;
        let mut reader = StreamReader::try_new(Cursor::new(stream), None)?;
        batches.push(reader.next().ok_or_else(short)??);
        bytes = rest;
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{RecordBatch, StringArray, UInt32Array};

    use super::{decode, encode};

    #[test]
    fn batches_arrive_as_they_were_and_cut_off_ones_are_errors() {
        let numbers = RecordBatch::try_from_iter([("crop_ix", Arc::new(UInt32Array::from(vec![1, 2, 3])) as _)]);
        let words = RecordBatch::try_from_iter([("path", Arc::new(StringArray::from(vec!["a", "bc"])) as _)]);
        let batches = vec![numbers.expect("a column"), words.expect("a column").slice(1, 1)];
        let bytes = encode(&batches).expect("packs");
        assert_eq!(decode(&bytes).expect("unpacks"), batches);
        assert!(decode(&[]).expect("nothing").is_empty());
        for length in [4, 20, bytes.len() - 1] {
            assert!(decode(&bytes[..length]).is_err(), "{length}");
        }
    }
}
