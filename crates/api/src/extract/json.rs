//! JSON as this API takes it: serde_json's, but a doubled field is an error at any depth. Depth is bounded by serde_json
//! (128 levels), size by the reader of the body.

use crate::error::{ApiError, ErrorCode};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::RefCell;
use std::fmt;

/// Parses a body.
///
/// # Errors
/// `malformed_json` or `duplicate_field`.
pub fn parse(bytes: &[u8]) -> Result<Value, ApiError> {
    let doubled = RefCell::new(None);
    let mut from = serde_json::Deserializer::from_slice(bytes);
    let parsed = Strict(&doubled)
        .deserialize(&mut from)
        .and_then(|value| from.end().map(|()| value));
    parsed.map_err(|error| match doubled.take() {
        Some(field) => ApiError::detailed(
            ErrorCode::DuplicateField,
            format!("The field `{}` is there twice.", shown(&field)),
        ),
        None => ApiError::detailed(
            ErrorCode::MalformedJson,
            format!(
                "The body is not JSON: line {}, column {}.",
                error.line(),
                error.column()
            ),
        ),
    })
}

/// A name from a request as it may be repeated in an answer: short, and without control characters.
pub(crate) fn shown(name: &str) -> String {
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut text: String = name.chars().take(64).map(clean).collect();
    if name.chars().nth(64).is_some() {
        text.push('…');
    }
    text
}

struct Strict<'a>(&'a RefCell<Option<String>>);

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Number::from_f64(number)
            .map(Value::Number)
            .ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = from.next_element_seed(Strict(self.0))? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = from.next_key::<String>()? {
            if fields.contains_key(&name) {
                self.0.replace(Some(name));
                return Err(A::Error::custom("a doubled field"));
            }
            let value = from.next_value_seed(Strict(self.0))?;
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code(bytes: &[u8]) -> ErrorCode {
        parse(bytes).unwrap_err().code()
    }

    #[test]
    fn a_doubled_field_is_found_at_any_depth() {
        assert_eq!(code(br#"{"a":1,"a":1}"#), ErrorCode::DuplicateField);
        assert_eq!(code(br#"{"x":[{"a":1,"\u0061":2}]}"#), ErrorCode::DuplicateField);
    }

    #[test]
    fn what_is_not_json_is_malformed() {
        let deep = "[".repeat(100_000);
        let bodies: [&[u8]; 9] = [
            b"",
            b"{",
            b"{}{}",
            b"nul",
            b"{\"a\":1e999}",
            b"\xff\xfe",
            b"\"\\ud800\"",
            b"{\"a\":\xc3}",
            deep.as_bytes(),
        ];
        for body in bodies {
            assert_eq!(
                code(body),
                ErrorCode::MalformedJson,
                "{:?}",
                String::from_utf8_lossy(body)
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let theirs = serde_json::from_slice::<Value>(&bytes).ok();
            if let Ok(ours) = parse(&bytes) { prop_assert_eq!(Some(ours), theirs); }
        }
    }
}
