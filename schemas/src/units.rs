//! Quantities as people write them in YAML: a number and a unit.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time, written with its unit: `30s`, `400ms`, `2h`, `90min`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Duration(f64);

/// An amount of memory or disk, written with its unit: `2GiB`, `512MiB`, `100MB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

const DURATION_UNITS: [(&str, f64); 5] = [("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("h", 3600.0), ("d", 86400.0)];
const BYTE_UNITS: [(&str, f64); 9] = [
    ("B", 1.0),
    ("kB", 1e3),
    ("KiB", 1024.0),
    ("MB", 1e6),
    ("MiB", 1_048_576.0),
    ("GB", 1e9),
    ("GiB", 1_073_741_824.0),
    ("TB", 1e12),
    ("TiB", 1_099_511_627_776.0),
];

impl Duration {
    /// From seconds, which must be finite and not negative.
    pub const fn from_secs(seconds: f64) -> Self {
        Self(seconds)
    }

    /// In seconds.
    pub const fn seconds(self) -> f64 {
        self.0
    }

    /// As a whole number of samples at a rate, or `None` when it is not one (to a millionth of a sample).
    pub fn whole_samples(self, sample_rate: u32) -> Option<u64> {
        let samples = self.0 * f64::from(sample_rate);
        ((samples - samples.round()).abs() < 1e-6).then_some(samples.round() as u64)
    }

    /// Parses `30s`.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        quantity(text, &DURATION_UNITS, "a duration", "30s").map(Self)
    }
}

impl Bytes {
    /// Parses `2GiB`.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        quantity(text, &BYTE_UNITS, "a size", "2GiB").map(|bytes| Self(bytes.round() as u64))
    }
}

fn quantity(text: &str, units: &[(&str, f64)], what: &str, example: &str) -> Result<f64, String> {
    let text = text.trim();
    let split = text.find(|c: char| c.is_ascii_alphabetic() && c != 'e' && c != 'E').unwrap_or(text.len());
    let (number, unit) = (text[..split].trim(), text[split..].trim());
    let value: f64 = number.parse().map_err(|_| format!("expected {what} such as `{example}`, found `{text}`"))?;
    if unit.is_empty() {
        return Err(format!("{what} needs a unit: expected something like `{example}`, found `{text}`"));
    }
    let known = units.iter().find(|known| known.0 == unit).ok_or_else(|| {
        let names: Vec<&str> = units.iter().map(|known| known.0).collect();
        format!("unknown unit `{unit}` in `{text}`: expected one of {}", names.join(", "))
    })?;
    let value = value * known.1;
    if value.is_finite() && value >= 0.0 { Ok(value) } else { Err(format!("{what} cannot be `{text}`")) }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0;
        if seconds != 0.0 && seconds < 1.0 { write!(f, "{}ms", seconds * 1e3) } else { write!(f, "{seconds}s") }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        for unit in ["B", "KiB", "MiB", "GiB"] {
            if value < 1024.0 {
                let digits = usize::from(value < 10.0 && unit != "B");
                return write!(f, "{value:.digits$}{unit}");
            }
            value /= 1024.0;
        }
        write!(f, "{value:.1}TiB")
    }
}

macro_rules! text_quantity {
    ($type:ty, $name:literal, $pattern:literal, $describe:literal, $write:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&$write(self))
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($describe)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        <$type>::parse(text).map_err(E::custom)
                    }
                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$type, E> {
                        <$type>::parse(&number.to_string()).map_err(E::custom)
                    }
                    fn visit_i64<E: de::Error>(self, number: i64) -> Result<$type, E> {
                        <$type>::parse(&number.to_string()).map_err(E::custom)
                    }
                    fn visit_f64<E: de::Error>(self, number: f64) -> Result<$type, E> {
                        <$type>::parse(&number.to_string()).map_err(E::custom)
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "description": $describe })
            }
        }
    };
}

text_quantity!(
    Duration,
    "Duration",
    r"^[0-9.]+ ?(ms|s|min|h|d)$",
    "a duration with its unit, such as `30s` or `400ms`",
    |duration: &Duration| format!("{}s", duration.0)
);
text_quantity!(
    Bytes,
    "Bytes",
    r"^[0-9.]+ ?(B|kB|KiB|MB|MiB|GB|GiB|TB|TiB)$",
    "a size with its unit, such as `2GiB`",
    |bytes: &Bytes| format!("{}B", bytes.0)
);

#[cfg(test)]
mod tests {
    use super::{Bytes, Duration};

    #[test]
    fn quantities_need_a_known_unit() {
        assert_eq!(Duration::parse("30s"), Ok(Duration(30.0)));
        assert_eq!(Duration::parse("1.5 min"), Ok(Duration(90.0)));
        assert_eq!(Duration::parse("400ms").map(Duration::seconds), Ok(0.4));
        assert_eq!(Bytes::parse("2GiB"), Ok(Bytes(2 << 30)));
        assert!(Duration::parse("30").is_err_and(|e| e.contains("needs a unit")));
        assert!(Duration::parse("30 seconds").is_err_and(|e| e.contains("unknown unit")));
        assert!(Duration::parse("soon").is_err());
    }

    #[test]
    fn a_bare_number_in_yaml_is_refused_with_the_reason() {
        let error = serde_json::from_str::<Duration>("30").expect_err("no unit");
        assert!(error.to_string().contains("needs a unit"), "{error}");
    }

    #[test]
    fn whole_samples_are_exact() {
        assert_eq!(Duration(30.0).whole_samples(24_000), Some(720_000));
        assert_eq!(Duration(0.0001).whole_samples(24_000), None);
    }
}
