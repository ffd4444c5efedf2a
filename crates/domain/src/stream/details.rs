//! The four JSON details of a message: checked against their documented shapes when ingested.
//!
//! A shape is a table of fields. What it does not name is refused, so nothing nests deeper than the tables do. An optional
//! field that is `null` is left out; texts are normalised to NFC; everything else is kept as it came. An error names the
//! field by its path (`eventDetails.attendees[2].name`).

use crate::clock::Timestamp;
use crate::error::FieldError;
use crate::profile::AvatarUrl;
use crate::text::{TextError, long_text, single_line};
use serde_json::{Map, Value};

/// The most bytes that one of the details may have, serialised.
pub const MAX_DETAIL_BYTES: usize = 64 * 1024;

type Checked = Result<Value, FieldError>;
type Check = fn(&str, &Value) -> Checked;

/// A field of a shape.
struct Field {
    name: &'static str,
    is_required: bool,
    check: Check,
}

const fn required(name: &'static str, check: Check) -> Field {
    Field {
        name,
        is_required: true,
        check,
    }
}

const fn optional(name: &'static str, check: Check) -> Field {
    Field {
        name,
        is_required: false,
        check,
    }
}

const EVENT: &[Field] = &[
    required("startsAt", time),
    optional("endsAt", time),
    optional("allDay", flag),
    optional("location", text),
    optional("organizer", line),
    required("attendees", attendees),
    optional("joinUrl", url),
];
const ATTENDEE: &[Field] = &[required("name", line), optional("status", line)];
const SOCIAL: &[Field] = &[
    required("platform", line),
    required("author", author),
    optional("url", url),
    optional("likes", count),
    optional("shares", count),
    optional("comments", count),
];
const AUTHOR: &[Field] = &[
    required("name", line),
    optional("handle", line),
    optional("avatarUrl", url),
];
const ATTACHMENT: &[Field] = &[
    required("name", line),
    required("url", url),
    required("mimeType", mime_type),
    required("sizeBytes", count),
    optional("thumbnailUrl", url),
];
const INSIGHT: &[Field] = &[
    required("kind", line),
    required("text", text),
    optional("confidence", share),
];

/// `eventDetails`: `{startsAt, endsAt?, allDay?, location?, organizer?, attendees: [{name, status?}], joinUrl?}`.
///
/// # Errors
/// The first field that is not as it must be, here as in the other three.
pub fn event_details(value: &Value) -> Checked {
    object("eventDetails", value, EVENT).and_then(|value| bounded("eventDetails", value))
}

/// `socialDetails`: `{platform, author: {name, handle?, avatarUrl?}, url?, likes?, shares?, comments?}`.
///
/// # Errors
/// As [`event_details`].
pub fn social_details(value: &Value) -> Checked {
    object("socialDetails", value, SOCIAL).and_then(|value| bounded("socialDetails", value))
}

/// `attachments`: `[{name, url, mimeType, sizeBytes, thumbnailUrl?}]`.
///
/// # Errors
/// As [`event_details`].
pub fn attachments(value: &Value) -> Checked {
    list("attachments", value, ATTACHMENT).and_then(|value| bounded("attachments", value))
}

/// `aiInsights`: `[{kind, text, confidence?}]`, the confidence from 0 to 1.
///
/// # Errors
/// As [`event_details`].
pub fn ai_insights(value: &Value) -> Checked {
    list("aiInsights", value, INSIGHT).and_then(|value| bounded("aiInsights", value))
}

fn object(path: &str, value: &Value, shape: &[Field]) -> Checked {
    let given = value.as_object().ok_or_else(|| no(path, "an object"))?;
    let unknown = |name: &&String| !shape.iter().any(|field| field.name == **name);
    if let Some(name) = given.keys().find(unknown) {
        let name: String = name.chars().take(64).collect();
        let path = format!("{path}.{name}");
        return Err(FieldError::new(path, "unknown_field", "is not known here"));
    }
    let mut checked = Map::new();
    for field in shape {
        let path = || format!("{path}.{}", field.name);
        match given.get(field.name) {
            None | Some(Value::Null) if field.is_required => {
                return Err(FieldError::new(path(), "required", "is required"));
            }
            None | Some(Value::Null) => {}
            Some(value) => {
                checked.insert(field.name.to_owned(), (field.check)(&path(), value)?);
            }
        }
    }
    Ok(Value::Object(checked))
}

fn list(path: &str, value: &Value, shape: &[Field]) -> Checked {
    let given = value.as_array().ok_or_else(|| no(path, "a list"))?;
    let elements = given.iter().enumerate();
    elements
        .map(|(index, value)| object(&format!("{path}[{index}]"), value, shape))
        .collect::<Result<_, _>>()
        .map(Value::Array)
}

fn bounded(path: &'static str, value: Value) -> Checked {
    if value.to_string().len() > MAX_DETAIL_BYTES {
        return Err(FieldError::new(
            path,
            "too_long",
            "must be at most 64 KiB of JSON",
        ));
    }
    Ok(value)
}

fn attendees(path: &str, value: &Value) -> Checked {
    list(path, value, ATTENDEE)
}

fn author(path: &str, value: &Value) -> Checked {
    object(path, value, AUTHOR)
}

/// One line that says something.
fn line(path: &str, value: &Value) -> Checked {
    string(path, value, |raw| single_line(raw, 1, MAX_DETAIL_BYTES))
}

/// Lines of text, or none.
fn text(path: &str, value: &Value) -> Checked {
    string(path, value, |raw| long_text(raw, MAX_DETAIL_BYTES))
}

/// An http or https URL of at most 2,048 code points.
fn url(path: &str, value: &Value) -> Checked {
    string(path, value, |raw| AvatarUrl::parse(raw).map(String::from))
}

fn mime_type(path: &str, value: &Value) -> Checked {
    string(path, value, |raw| {
        let text = single_line(raw, 1, 255)?;
        let is_token = |part: &str| !part.is_empty() && !part.contains([' ', '/']);
        match text.split(';').next().and_then(|essence| essence.split_once('/')) {
            Some((kind, subtype)) if is_token(kind) && is_token(subtype.trim_end()) => Ok(text),
            _ => Err(TextError::Malformed("must be a media type, such as image/png")),
        }
    })
}

fn time(path: &str, value: &Value) -> Checked {
    string(path, value, |raw| match Timestamp::parse(raw) {
        Some(_) => Ok(raw.to_owned()),
        None => Err(TextError::Malformed("must be an RFC 3339 time")),
    })
}

fn string(path: &str, value: &Value, parse: impl Fn(&str) -> Result<String, TextError>) -> Checked {
    let raw = value.as_str().ok_or_else(|| no(path, "a string"))?;
    parse(raw)
        .map(Value::String)
        .map_err(|error| FieldError::new(path.to_owned(), error.code(), error.to_string()))
}

fn flag(path: &str, value: &Value) -> Checked {
    value.as_bool().ok_or_else(|| no(path, "true or false"))?;
    Ok(value.clone())
}

/// A whole number, 0 or more.
fn count(path: &str, value: &Value) -> Checked {
    number(
        path,
        value,
        value.as_u64().is_some(),
        "must be a whole number, 0 or more",
    )
}

/// A number from 0 to 1.
fn share(path: &str, value: &Value) -> Checked {
    let is_share = value.as_f64().is_some_and(|share| (0.0..=1.0).contains(&share));
    number(path, value, is_share, "must be from 0 to 1")
}

fn number(path: &str, value: &Value, is_fine: bool, rule: &'static str) -> Checked {
    if !value.is_number() {
        return Err(no(path, "a number"));
    }
    if !is_fine {
        return Err(FieldError::new(path.to_owned(), "invalid_value", rule));
    }
    Ok(value.clone())
}

fn no(path: &str, kind: &str) -> FieldError {
    FieldError::new(path.to_owned(), "invalid_type", format!("must be {kind}"))
}

#[cfg(test)]
#[path = "details_tests.rs"]
mod tests;
