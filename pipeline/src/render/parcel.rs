//! A piece of a call on its way from one rank to another, as timely carries it.

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use timely::Accountable;
use timely::bytes::arc::Bytes;
use timely::communication::Push;
use timely::dataflow::channels::pact::DistributorPact;
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::channels::{ContainerBytes, Message};
use timely::progress::Stamp;

/// Numbers before the payload.
const HEAD: usize = 6;

/// Values that are turned into bytes at a time.
const BLOCK: usize = 1024;

/// What a piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of a bucket, the slice that the receiver owns.
    Slice,
    /// Of a bucket, the slice that the sender owns, added up.
    Sum,
    /// A small vector of f64.
    Values,
    /// A broadcast.
    Bytes,
    /// What is wrong.
    Trouble,
    /// Rows of an epoch; the call is the epoch.
    Rows,
    /// The end of an epoch.
    End,
}

const KINDS: [Kind; 7] = [Kind::Slice, Kind::Sum, Kind::Values, Kind::Bytes, Kind::Trouble, Kind::Rows, Kind::End];

/// A piece.
#[derive(Clone)]
pub(crate) struct Piece {
    pub(crate) call: u64,
    pub(crate) kind: Kind,
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// Values of the whole vector.
    pub(crate) total: usize,
    pub(crate) payload: Payload,
}

/// What a piece holds. Floats are little-endian on the wire, so that processes of any machine understand each other.
#[derive(Clone)]
pub(crate) enum Payload {
    /// A part of a vector.
    Floats(Arc<Vec<f32>>, Range<usize>),
    Bytes(Arc<Vec<u8>>),
    /// As it came from another process: the buffer into which it was received, and its length in it.
    Received(Bytes, usize),
}

impl Payload {
    fn length(&self) -> usize {
        match self {
            Self::Floats(_, range) => 4 * range.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::Received(_, length) => *length,
        }
    }

    /// What it holds, if that is bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Floats(..) => &[],
            Self::Bytes(bytes) => bytes,
            Self::Received(bytes, length) => &bytes[..*length],
        }
    }

    /// What it holds, as f32.
    pub(crate) fn floats(&self) -> Vec<f32> {
        match self {
            Self::Floats(values, range) => values[range.clone()].to_vec(),
            other => other.bytes().chunks_exact(4).map(float).collect(),
        }
    }

    /// Adds what it holds, as f32, to a vector.
    pub(crate) fn add_to(&self, sums: &mut [f32]) {
        match self {
            Self::Floats(values, range) => {
                sums.iter_mut().zip(&values[range.clone()]).for_each(|(sum, value)| *sum += value);
            }
            other => {
                let values = other.bytes().chunks_exact(4).map(float);
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            }
        }
    }

    /// What it holds, as f64.
    pub(crate) fn doubles(&self) -> impl Iterator<Item = f64> {
        let value = |bytes: &[u8]| {
            let mut eight = [0; 8];
            eight.copy_from_slice(bytes);
            f64::from_le_bytes(eight)
        };
        self.bytes().chunks_exact(8).map(value)
    }
}

fn float(bytes: &[u8]) -> f32 {
    f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

impl Piece {
    /// What its sender gave, for people.
    pub(crate) fn describe(&self) -> String {
        match self.kind {
            Kind::Slice | Kind::Sum => format!("a bucket of {} values", self.total),
            Kind::Values => format!("{} values", self.total),
            Kind::Bytes | Kind::Trouble => "a broadcast".to_owned(),
            Kind::Rows | Kind::End => "rows".to_owned(),
        }
    }
}

/// What timely carries: one piece, or nothing any more.
#[derive(Clone, Default)]
pub(crate) struct Parcel(Option<Piece>);

impl Parcel {
    pub(crate) fn of(piece: Piece) -> Self {
        Self(Some(piece))
    }

    pub(crate) fn take(&mut self) -> Option<Piece> {
        self.0.take()
    }
}

impl Accountable for Parcel {
    fn record_count(&self) -> i64 {
        i64::from(self.0.is_some())
    }
}

impl ContainerBytes for Parcel {
    fn from_bytes(mut bytes: Bytes) -> Self {
        let head = bytes.extract_to(8 * HEAD);
        let number = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&head[8 * at..8 * at + 8]);
            u64::from_le_bytes(eight) as usize
        };
        let [call, kind, from, to, total, length] = std::array::from_fn(number);
        let payload = Payload::Received(bytes, length);
        Self(Some(Piece { call: call as u64, kind: KINDS[kind], from, to, total, payload }))
    }

    fn length_in_bytes(&self) -> usize {
        let length = self.0.as_ref().map_or(0, |piece| piece.payload.length());
        8 * HEAD + length.next_multiple_of(8)
    }

    fn into_bytes<W: Write>(&self, writer: &mut W) {
        let piece = self.0.as_ref().expect("empty parcels stay where they are");
        let kind = KINDS.iter().position(|kind| *kind == piece.kind).unwrap_or_default();
        let length = piece.payload.length();
        let mut put = |bytes: &[u8]| writer.write_all(bytes).expect("memory takes what fits into it");
        for number in [piece.call, kind as u64, piece.from as u64, piece.to as u64, piece.total as u64, length as u64] {
            put(&number.to_le_bytes());
        }
        match &piece.payload {
            Payload::Floats(values, range) => {
                let mut block = [0; 4 * BLOCK];
                for values in values[range.clone()].chunks(BLOCK) {
                    let bytes = &mut block[..4 * values.len()];
                    for (bytes, value) in bytes.chunks_exact_mut(4).zip(values) {
                        bytes.copy_from_slice(&value.to_le_bytes());
                    }
                    put(bytes);
                }
            }
            other => put(other.bytes()),
        }
        put(&[0; 8][..length.next_multiple_of(8) - length]);
    }
}

/// Brings every parcel to the rank that it is addressed to.
pub(crate) fn to_owner() -> DistributorPact<fn(usize) -> ByAddress> {
    DistributorPact(|_| ByAddress)
}

/// See [`to_owner`].
pub(crate) struct ByAddress;

impl Distributor<Parcel> for ByAddress {
    fn partition<T: Clone, P: Push<Message<T, Parcel>>>(
        &mut self,
        parcel: &mut Parcel,
        stamp: &Stamp<T>,
        pushers: &mut [P],
    ) {
        if let Some(piece) = &parcel.0 {
            let to = piece.to;
            Message::push_at(parcel, stamp.clone(), &mut pushers[to]);
        }
    }

    fn flush<T: Clone, P: Push<Message<T, Parcel>>>(&mut self, _: &Stamp<T>, _: &mut [P]) {}
}
