//! The Conformer and its parts, in candle.
