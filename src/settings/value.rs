//! NumberCheck values as serde takes them.

use std::collections::BTreeMap;

use serde::de::value::{Error, MapDeserializer};
use serde::de::{Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

/// A value of the table's kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SettingValue {
    /// Text, a path, or a word.
    Text(String),
    /// A number.
    Number(i64),
    /// A switch or truth.
    Truth(bool),
}

impl<'de> Deserializer<'de> for SettingValue {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Self::Text(text) => visitor.visit_string(text),
            Self::Number(number) => visitor.visit_i64(number),
            Self::Truth(truth) => visitor.visit_bool(truth),
        }
    }

    /// An empty text is how the config file says that there is none.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Self::Text(text) if text.is_empty() => visitor.visit_none(),
            value => visitor.visit_some(value),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self {
            Self::Text(text) => text.into_deserializer().deserialize_enum(name, variants, visitor),
            value => value.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl IntoDeserializer<'_, Error> for SettingValue {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// All values by their options' names.
pub(super) struct SettingMap(pub(super) BTreeMap<&'static str, SettingValue>);

impl<'de> Deserializer<'de> for SettingMap {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        MapDeserializer::new(self.0.into_iter()).deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
