//! How recordings are named.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A recording: 64 bits of the BLAKE3 hash of its name in the corpus. Written as 16 hexadecimal digits.
///
/// Ids are a function of the name alone, so the same corpus gives the same ids on every machine, and hashing spreads
/// tracks evenly over shards.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackId(pub u64);

impl TrackId {
    /// The id of a name; `occurrence` tells repeats of one name in a manifest apart (0 for the first).
    pub fn of(name: &str, occurrence: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(name.as_bytes());
        if occurrence > 0 {
            hasher.update(b"\0#").update(&occurrence.to_le_bytes());
        }
        let bytes = hasher.finalize();
        Self(u64::from_be_bytes(bytes.as_bytes()[..8].try_into().expect("a hash has 32 bytes")))
    }
}

impl fmt::Display for TrackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for TrackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrackId({self})")
    }
}

impl Serialize for TrackId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TrackId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(Self).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::TrackId;

    #[test]
    fn ids_depend_on_name_and_occurrence_only() {
        assert_eq!(TrackId::of("a/b.mp3", 0), TrackId::of("a/b.mp3", 0));
        assert_ne!(TrackId::of("a/b.mp3", 0), TrackId::of("a/b.mp3", 1));
        assert_ne!(TrackId::of("a/b.mp3", 0), TrackId::of("a/c.mp3", 0));
    }
}
