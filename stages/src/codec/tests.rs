//! Decoding whole files, made here byte by byte or read from `tests/audio`.
