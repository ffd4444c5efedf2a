//! The fields of a JSON object, read into domain types. Everything that is wrong is collected, not only the first thing.

use crate::error::{ApiError, ErrorCode};
use crate::extract::json::shown;
use gravity_domain::error::FieldError;
use gravity_domain::text::TextError;
use serde_json::{Map, Value};

/// The body of a call: which fields it may have, and how they become a domain value.
pub trait Body: Sized {
    /// The names of all fields; any other is 400 `unknown_field`.
    const FIELDS: &'static [&'static str];
    /// True for an update: one that sets nothing is 400 `empty_update`.
    const IS_UPDATE: bool = false;
    /// True for a batch of a service: a limit of its own holds for its size.
    const IS_BATCH: bool = false;

    /// Reads the fields. `None` only when an error was noted in `fields`.
    fn read(fields: &mut Fields<'_>) -> Option<Self>;
}

/// Reads `value` as a body of kind `T`.
///
/// # Errors
/// `invalid_body`, `unknown_field`, `empty_update` or `validation_failed`.
pub fn read<T: Body>(value: &Value) -> Result<T, ApiError> {
    let Value::Object(object) = value else {
        return Err(ApiError::detailed(
            ErrorCode::InvalidBody,
            "The body must be a JSON object.",
        ));
    };
    if let Some(name) = object.keys().find(|name| !T::FIELDS.contains(&name.as_str())) {
        return Err(unknown(name, T::FIELDS));
    }
    if T::IS_UPDATE && object.is_empty() {
        return Err(ApiError::new(ErrorCode::EmptyUpdate));
    }
    let mut fields = Fields {
        object,
        errors: Vec::new(),
        unknown: None,
    };
    let body = T::read(&mut fields);
    if let Some(error) = fields.unknown {
        return Err(error);
    }
    match body {
        Some(body) if fields.errors.is_empty() => Ok(body),
        _ => Err(ApiError::validation(fields.errors)),
    }
}

fn unknown(name: &str, known: &[&str]) -> ApiError {
    ApiError::detailed(
        ErrorCode::UnknownField,
        format!(
            "There is no field `{}`; the fields are {}.",
            shown(name),
            known.join(", ")
        ),
    )
}

/// The fields of a body, and what is wrong with them so far.
#[derive(Debug)]
pub struct Fields<'a> {
    object: &'a Map<String, Value>,
    errors: Vec<FieldError>,
    unknown: Option<ApiError>,
}

impl<'a> Fields<'a> {
    /// The value of a field, whatever it is.
    pub fn value(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name)
    }

    /// Notes a field below the top that nobody knows: 400 `unknown_field`. Always `None`.
    pub fn refuse_unknown<T>(&mut self, name: &str, known: &[&str]) -> Option<T> {
        self.unknown = Some(unknown(name, known));
        None
    }

    /// A text that must be there. `None`: an error was noted.
    pub fn required<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, TextError>,
    ) -> Option<T> {
        match self.object.get(name) {
            None => self.refuse(FieldError::new(name, "required", "is required")),
            Some(value) => self.text(name, value, parse),
        }
    }

    /// A text that may be left out, but is no `null`. `Some(None)`: it is not there. `None`: an error was noted.
    pub fn optional<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, TextError>,
    ) -> Option<Option<T>> {
        match self.object.get(name) {
            None => Some(None),
            Some(value) => self.text(name, value, parse).map(Some),
        }
    }

    /// A text that may be left out or `null`: `Some(Some(None))` is a `null`, `Some(None)` is not there.
    pub fn clearable<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, TextError>,
    ) -> Option<Option<Option<T>>> {
        match self.object.get(name) {
            None => Some(None),
            Some(Value::Null) => Some(Some(None)),
            Some(value) => self.text(name, value, parse).map(|text| Some(Some(text))),
        }
    }

    /// A flag that may be left out, but is no `null`. `Some(None)`: it is not there. `None`: an error was noted.
    pub fn flag(&mut self, name: &'static str) -> Option<Option<bool>> {
        match self.object.get(name) {
            None => Some(None),
            Some(Value::Bool(flag)) => Some(Some(*flag)),
            Some(_) => self.refuse(FieldError::new(name, "invalid_type", "must be true or false")),
        }
    }

    fn text<T>(
        &mut self,
        name: &'static str,
        value: &Value,
        parse: impl FnOnce(&str) -> Result<T, TextError>,
    ) -> Option<T> {
        let Value::String(raw) = value else {
            return self.refuse(FieldError::new(name, "invalid_type", "must be a string"));
        };
        match parse(raw) {
            Ok(text) => Some(text),
            Err(error) => self.refuse(error.at(name)),
        }
    }

    /// Notes an error. Always `None`.
    pub fn refuse<T>(&mut self, error: FieldError) -> Option<T> {
        self.errors.push(error);
        None
    }
}
