//! Numbers that are exact or within bounds: `4`, `{min: 2}`, `{min: 2, max: 8}`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

/// How many of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount {
    min: Option<u64>,
    max: Option<u64>,
}

impl Amount {
    /// Exactly so many.
    pub fn exactly(count: u64) -> Self {
        Self { min: Some(count), max: Some(count) }
    }

    /// Whether so many are right.
    pub fn holds(self, count: u64) -> bool {
        self.min.is_none_or(|min| count >= min) && self.max.is_none_or(|max| count <= max)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.min, self.max) {
            (Some(min), Some(max)) if min == max => write!(f, "{min}"),
            (Some(min), Some(max)) => write!(f, "{min} to {max}"),
            (Some(min), None) => write!(f, "at least {min}"),
            (None, Some(max)) => write!(f, "at most {max}"),
            (None, None) => f.write_str("any number"),
        }
    }
}

/// Bounds of a number.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Bounds {
    /// Not fewer.
    #[serde(default)]
    min: Option<u64>,
    /// Not more.
    #[serde(default)]
    max: Option<u64>,
}

impl Bounds {
    fn read<'de, M: MapAccess<'de>>(map: M) -> Result<Amount, M::Error> {
        let Self { min, max } = Self::deserialize(MapAccessDeserializer::new(map))?;
        if min.zip(max).is_some_and(|(min, max)| min > max) {
            return Err(M::Error::custom("`min` is larger than `max`"));
        }
        Ok(Amount { min, max })
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrBounds;
        impl<'de> Visitor<'de> for NumberOrBounds {
            type Value = Amount;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or bounds such as `{min: 2, max: 8}`")
            }
            fn visit_u64<E: Error>(self, count: u64) -> Result<Amount, E> {
                Ok(Amount::exactly(count))
            }
            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Amount, M::Error> {
                Bounds::read(map)
            }
        }
        deserializer.deserialize_any(NumberOrBounds)
    }
}

impl JsonSchema for Amount {
    fn schema_name() -> Cow<'static, str> {
        "Amount".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let bounds = generator.subschema_for::<Bounds>();
        let number = json_schema!({ "type": "integer", "minimum": 0 });
        json_schema!({ "anyOf": [number, bounds], "description": "A number, or bounds: `{min: 2, max: 8}`." })
    }
}

/// How many recordings are rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejects {
    /// In all, whatever the class.
    InAll(Amount),
    /// By class; none of other classes.
    ByClass(BTreeMap<String, Amount>),
}

impl Default for Rejects {
    fn default() -> Self {
        Self::InAll(Amount::exactly(0))
    }
}

impl<'de> Deserialize<'de> for Rejects {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrClasses;
        impl<'de> Visitor<'de> for NumberOrClasses {
            type Value = Rejects;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or numbers by class such as `{corrupt: 1}`")
            }
            fn visit_u64<E: Error>(self, count: u64) -> Result<Rejects, E> {
                Ok(Rejects::InAll(Amount::exactly(count)))
            }
            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Rejects, M::Error> {
                BTreeMap::deserialize(MapAccessDeserializer::new(map)).map(Rejects::ByClass)
            }
        }
        deserializer.deserialize_any(NumberOrClasses)
    }
}

impl JsonSchema for Rejects {
    fn schema_name() -> Cow<'static, str> {
        "Rejects".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let amount = generator.subschema_for::<Amount>();
        let number = json_schema!({ "type": "integer", "minimum": 0 });
        let classes = json_schema!({ "type": "object", "additionalProperties": amount });
        json_schema!({ "anyOf": [number, classes], "description": "A number, or numbers by class: `{corrupt: 1}`." })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn numbers_and_bounds_are_read_and_said() {
        let amount = |value| from_value::<Amount>(value).expect("an amount");
        let cases = [(json!(4), "4", [false, true, false]), (json!({"min": 4}), "at least 4", [false, true, true])];
        for (value, words, holds) in cases {
            assert_eq!(
                (amount(value.clone()).to_string().as_str(), [3, 4, 5].map(|n| amount(value.clone()).holds(n))),
                (words, holds)
            );
        }
        assert_eq!(amount(json!({"min": 2, "max": 8})).to_string(), "2 to 8");
        assert!(from_value::<Amount>(json!({"min": 8, "max": 2})).is_err());
        assert!(from_value::<Amount>(json!({"least": 8})).is_err() && from_value::<Amount>(json!(-1)).is_err());
        let classes = from_value::<Rejects>(json!({"io": 1, "corrupt": {"max": 3}})).expect("classes");
        assert!(matches!(classes, Rejects::ByClass(classes) if classes.len() == 2));
    }
}
