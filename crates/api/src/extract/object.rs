//! JSON objects below the top of a body, read into domain values up to the first thing that is wrong. Errors name the
//! field by its path: `messages[2].timestamp`. What may be left out may be `null` as well.

use crate::extract::json::shown;
use gravity_domain::error::FieldError;
use gravity_domain::text::TextError;
use serde_json::{Map, Value};

/// The code of a field that nobody knows.
pub(crate) const UNKNOWN_FIELD: &str = "unknown_field";

/// An object and its place.
#[derive(Debug)]
pub(crate) struct Object<'a> {
    fields: &'a Map<String, Value>,
    at: String,
}

/// An error of the wrong JSON type.
pub(crate) fn wrong_type(at: String, message: &'static str) -> FieldError {
    FieldError::new(at, "invalid_type", message)
}

fn text<T>(
    at: String,
    value: &Value,
    parse: impl FnOnce(&str) -> Result<T, TextError>,
) -> Result<T, FieldError> {
    let Value::String(raw) = value else {
        return Err(wrong_type(at, "must be a string"));
    };
    parse(raw).map_err(|error| FieldError::new(at, error.code(), error.to_string()))
}

/// The values of an array of at most `max`, with their places.
pub(crate) fn elements(at: String, value: &Value, max: usize) -> Result<Vec<(String, &Value)>, FieldError> {
    let Value::Array(all) = value else {
        return Err(wrong_type(at, "must be an array"));
    };
    if all.len() > max {
        return Err(FieldError::new(
            at,
            "too_long",
            format!("must have at most {max} elements"),
        ));
    }
    let placed = all.iter().enumerate();
    Ok(placed.map(|(n, value)| (format!("{at}[{n}]"), value)).collect())
}

/// The texts of an array of at most `max`.
pub(crate) fn texts<T>(
    at: String,
    value: &Value,
    max: usize,
    parse: impl Fn(&str) -> Result<T, TextError>,
) -> Result<Vec<T>, FieldError> {
    elements(at, value, max)?
        .into_iter()
        .map(|(at, value)| text(at, value, &parse))
        .collect()
}

impl<'a> Object<'a> {
    /// The object that `value` is, with no field but those `known`.
    ///
    /// # Errors
    /// `invalid_type`, or [`UNKNOWN_FIELD`].
    pub(crate) fn of(value: &'a Value, at: String, known: &[&str]) -> Result<Self, FieldError> {
        let Value::Object(fields) = value else {
            return Err(wrong_type(at, "must be an object"));
        };
        let object = Self { fields, at };
        match fields.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => {
                let message = format!("is not known; the fields are {}", known.join(", "));
                Err(FieldError::new(object.path(&shown(name)), UNKNOWN_FIELD, message))
            }
            None => Ok(object),
        }
    }

    fn path(&self, name: &str) -> String {
        if self.at.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.at)
        }
    }

    fn given(&self, name: &str) -> Option<(String, &'a Value)> {
        let value = self.fields.get(name).filter(|value| !value.is_null())?;
        Some((self.path(name), value))
    }

    /// A text that must be there.
    pub(crate) fn required<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, TextError>,
    ) -> Result<T, FieldError> {
        match self.fields.get(name) {
            None => Err(FieldError::new(self.path(name), "required", "is required")),
            Some(value) => text(self.path(name), value, parse),
        }
    }

    /// A text that may be left out.
    pub(crate) fn optional<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, TextError>,
    ) -> Result<Option<T>, FieldError> {
        self.given(name)
            .map(|(at, value)| text(at, value, parse))
            .transpose()
    }

    /// A flag that may be left out.
    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, FieldError> {
        match self.given(name) {
            None => Ok(None),
            Some((_, Value::Bool(flag))) => Ok(Some(*flag)),
            Some((at, _)) => Err(wrong_type(at, "must be true or false")),
        }
    }

    /// One text or an array of at most `max`; none when it is left out.
    pub(crate) fn one_or_more<T>(
        &self,
        name: &str,
        max: usize,
        parse: impl Fn(&str) -> Result<T, TextError>,
    ) -> Result<Vec<T>, FieldError> {
        match self.given(name) {
            None => Ok(Vec::new()),
            Some((at, value @ Value::Array(_))) => texts(at, value, max, parse),
            Some((at, value)) => text(at, value, parse).map(|one| vec![one]),
        }
    }

    /// The elements of an array of at most `max`; none when it is left out.
    pub(crate) fn list(&self, name: &str, max: usize) -> Result<Vec<(String, &'a Value)>, FieldError> {
        self.given(name)
            .map_or(Ok(Vec::new()), |(at, value)| elements(at, value, max))
    }

    /// A value of a shape of its own; what is wrong inside it is named below this object.
    pub(crate) fn shaped<T>(
        &self,
        name: &str,
        check: impl FnOnce(&Value) -> Result<T, FieldError>,
    ) -> Result<Option<T>, FieldError> {
        let Some((_, value)) = self.given(name) else {
            return Ok(None);
        };
        let placed = |error: FieldError| FieldError {
            field: self.path(&error.field).into(),
            ..error
        };
        check(value).map(Some).map_err(placed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn any(raw: &str) -> Result<String, TextError> {
        Ok(raw.to_owned())
    }

    #[test]
    fn errors_name_the_field_by_its_path() {
        let value = json!({ "a": 1, "b": ["x", 2], "c": null });
        let object = Object::of(&value, "messages[2]".into(), &["a", "b", "c"]).unwrap();
        let failed = |error: FieldError| (error.field.into_owned(), error.code);
        assert_eq!(
            failed(object.required("a", any).unwrap_err()),
            ("messages[2].a".into(), "invalid_type")
        );
        assert_eq!(
            failed(object.required("d", any).unwrap_err()),
            ("messages[2].d".into(), "required")
        );
        assert_eq!(
            failed(object.one_or_more("b", 2, any).unwrap_err()),
            ("messages[2].b[1]".into(), "invalid_type")
        );
        assert_eq!(
            failed(object.list("b", 1).unwrap_err()),
            ("messages[2].b".into(), "too_long")
        );
        let inner = |_: &Value| Err::<(), _>(FieldError::new("a.x", "required", ""));
        assert_eq!(
            failed(object.shaped("a", inner).unwrap_err()),
            ("messages[2].a.x".into(), "required")
        );
        assert_eq!(
            (object.optional("c", any).unwrap(), object.flag("c").unwrap()),
            (None, None)
        );
        assert_eq!(
            failed(Object::of(&value, String::new(), &["a", "c"]).unwrap_err()),
            ("b".into(), UNKNOWN_FIELD)
        );
    }
}
