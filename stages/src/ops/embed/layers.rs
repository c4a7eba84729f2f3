//! Which blocks of an encoder.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::BindError;

/// Which blocks to take the output of.
///
/// Written as a number, a list, or a text with numbers between commas or the word `all`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layers {
    /// Every block.
    All,
    /// Indices from 0, or from the end: -1 is the last.
    These(Vec<i64>),
}

/// The last.
impl Default for Layers {
    fn default() -> Self {
        Self::These(vec![-1])
    }
}

impl JsonSchema for Layers {
    fn schema_name() -> Cow<'static, str> {
        "Layers".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let items = json_schema!({"type": "integer"});
        json_schema!({
            "description": "A layer, a list of layers, a text with numbers between commas, or `all`.",
            "type": ["integer", "array", "string"],
            "items": items,
        })
    }
}

impl Serialize for Layers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::These(layers) => layers.serialize(serializer),
        }
    }
}

impl Layers {
    /// Indices from 0 among `count` blocks, in the order in which they were asked for.
    ///
    /// # Errors
    /// When there is no such block, or one is asked for twice.
    pub fn of(&self, count: usize) -> Result<Vec<u32>, BindError> {
        let refused = |message: String| BindError::param("layers", message);
        let Self::These(asked) = self else { return Ok((0..count as u32).collect()) };
        if asked.is_empty() {
            return Err(refused("expected at least one layer, found none".to_owned()));
        }
        let mut layers = Vec::new();
        for layer in asked {
            let index = if *layer < 0 { layer + count as i64 } else { *layer };
            if !(0..count as i64).contains(&index) {
                let message = format!("the encoder has layers 0 to {} (-{count} to -1), found {layer}", count - 1);
                return Err(refused(message));
            }
            if layers.contains(&(index as u32)) {
                return Err(refused(format!("layer {layer} is asked for twice")));
            }
            layers.push(index as u32);
        }
        Ok(layers)
    }
}

impl<'de> Deserialize<'de> for Layers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl<'de> de::Visitor<'de> for Written {
            type Value = Layers;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a layer such as 6, a list of layers, or `all`")
            }
            fn visit_i64<E: de::Error>(self, layer: i64) -> Result<Layers, E> {
                Ok(Layers::These(vec![layer]))
            }
            fn visit_u64<E: de::Error>(self, layer: u64) -> Result<Layers, E> {
                self.visit_i64(i64::try_from(layer).map_err(E::custom)?)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Layers, E> {
                if text.trim() == "all" {
                    return Ok(Layers::All);
                }
                let layer = |word: &str| word.trim().parse::<i64>();
                let layers = text.split(',').map(layer).collect::<Result<_, _>>();
                layers.map(Layers::These).map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Layers, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(list)).map(Layers::These)
            }
        }
        deserializer.deserialize_any(Written)
    }
}

#[cfg(test)]
mod tests {
    use super::Layers;
    use serde_json::json;

    #[test]
    fn layers_are_written_as_one_as_a_list_or_as_all() {
        let of = |written: serde_json::Value| {
            let layers: Layers = serde_json::from_value(written).map_err(|error| error.to_string())?;
            layers.of(12).map_err(|error| error.message)
        };
        assert_eq!(of(json!(6)), Ok(vec![6]));
        assert_eq!(of(json!([6, -1])), Ok(vec![6, 11]));
        assert_eq!(of(json!("6, 11")), Ok(vec![6, 11]));
        assert_eq!(of(json!("all")), Ok((0..12).collect()));
        assert_eq!(of(json!(12)), Err("the encoder has layers 0 to 11 (-12 to -1), found 12".to_owned()));
        assert_eq!(of(json!([6, -6])), Err("layer -6 is asked for twice".to_owned()));
        assert!(of(json!("six")).is_err() && of(json!([])).is_err() && of(json!(true)).is_err());
    }
}
