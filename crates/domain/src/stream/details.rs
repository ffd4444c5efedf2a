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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    type Rule = fn(&Value) -> Checked;

    fn event() -> Value {
        json!({"startsAt": "2026-03-01T10:00:00+01:00", "endsAt": "2026-03-01T11:00:00Z", "allDay": false,
            "location": "Room 1\nSecond floor", "organizer": "Ada", "joinUrl": "https://meet.example.com/x",
            "attendees": [{"name": "Ben", "status": "accepted"}, {"name": "Chloé"}]})
    }

    fn social() -> Value {
        json!({"platform": "forum", "author": {"name": "Ada", "handle": "@ada", "avatarUrl": "https://a.example.com/a.png"},
            "url": "https://forum.example.com/1", "likes": 3, "shares": 0, "comments": 12})
    }

    fn attachment() -> Value {
        json!({"name": "a.pdf", "url": "https://f.example.com/a.pdf", "mimeType": "application/pdf",
            "sizeBytes": 12, "thumbnailUrl": "http://f.example.com/a.png"})
    }

    fn insight() -> Value {
        json!({"kind": "summary", "text": "Short.\nClear.", "confidence": 0.5})
    }

    /// `value` with the field at `pointer` replaced.
    fn with(mut value: Value, pointer: &str, new: Value) -> Value {
        *value.pointer_mut(pointer).unwrap() = new;
        value
    }

    fn refused(check: Rule, value: &Value) -> (String, &'static str) {
        let error = check(value).unwrap_err();
        (error.field.into_owned(), error.code)
    }

    #[test]
    fn what_has_the_documented_shape_is_kept_as_it_came() {
        assert_eq!(event_details(&event()).unwrap(), event());
        assert_eq!(social_details(&social()).unwrap(), social());
        let attached = json!([attachment(), attachment()]);
        assert_eq!(attachments(&attached).unwrap(), attached);
        let insights = json!([insight(), {"kind": "k", "text": "", "confidence": 1}]);
        assert_eq!(ai_insights(&insights).unwrap(), insights);
        assert_eq!(attachments(&json!([])).unwrap(), json!([]));
    }

    #[test]
    fn only_required_fields_are_required_and_null_is_no_value() {
        let least = json!({"startsAt": "2026-03-01T10:00:00Z", "attendees": []});
        assert_eq!(event_details(&least).unwrap(), least);
        let nulls =
            json!({"startsAt": "2026-03-01T10:00:00Z", "attendees": [], "location": null, "endsAt": null});
        assert_eq!(event_details(&nulls).unwrap(), least);
        let cases: [(Rule, Value, &str); 8] = [
            (event_details, json!({"attendees": []}), "eventDetails.startsAt"),
            (
                event_details,
                json!({"startsAt": "2026-03-01T10:00:00Z"}),
                "eventDetails.attendees",
            ),
            (
                event_details,
                with(event(), "/attendees/1", json!({})),
                "eventDetails.attendees[1].name",
            ),
            (
                social_details,
                json!({"author": {"name": "A"}}),
                "socialDetails.platform",
            ),
            (social_details, json!({"platform": "x"}), "socialDetails.author"),
            (
                social_details,
                json!({"platform": "x", "author": {}}),
                "socialDetails.author.name",
            ),
            (
                attachments,
                json!([with(attachment(), "/sizeBytes", Value::Null)]),
                "attachments[0].sizeBytes",
            ),
            (
                ai_insights,
                json!([insight(), {"kind": "k"}]),
                "aiInsights[1].text",
            ),
        ];
        for (check, value, path) in cases {
            assert_eq!(refused(check, &value), (path.to_owned(), "required"));
        }
    }

    #[test]
    fn unknown_fields_are_refused_at_every_depth() {
        let mut value = event();
        value["attendees"][1]["email"] = json!("x");
        assert_eq!(
            refused(event_details, &value),
            ("eventDetails.attendees[1].email".to_owned(), "unknown_field")
        );
        let mut deep = json!(1);
        for _ in 0..100 {
            deep = json!([deep]);
        }
        let value = json!({"platform": "x", "author": {"name": "A"}, "more": deep});
        assert_eq!(
            refused(social_details, &value),
            ("socialDetails.more".to_owned(), "unknown_field")
        );
        let value = with(event(), "/location", deep);
        assert_eq!(
            refused(event_details, &value),
            ("eventDetails.location".to_owned(), "invalid_type")
        );
    }

    #[test]
    fn fields_of_a_wrong_kind_or_value_are_refused_by_path_and_code() {
        let one = |value| json!([value]);
        let cases: [(Rule, Value, &str, &str); 18] = [
            (event_details, json!([]), "eventDetails", "invalid_type"),
            (attachments, json!({}), "attachments", "invalid_type"),
            (ai_insights, json!(["x"]), "aiInsights[0]", "invalid_type"),
            (
                event_details,
                with(event(), "/allDay", json!("yes")),
                "eventDetails.allDay",
                "invalid_type",
            ),
            (
                event_details,
                with(event(), "/startsAt", json!("tomorrow")),
                "eventDetails.startsAt",
                "invalid_format",
            ),
            (
                event_details,
                with(event(), "/endsAt", json!("2026-03-01")),
                "eventDetails.endsAt",
                "invalid_format",
            ),
            (
                event_details,
                with(event(), "/joinUrl", json!("javascript:x")),
                "eventDetails.joinUrl",
                "invalid_format",
            ),
            (
                event_details,
                with(event(), "/organizer", json!("")),
                "eventDetails.organizer",
                "required",
            ),
            (
                event_details,
                with(event(), "/organizer", json!("a\u{0}")),
                "eventDetails.organizer",
                "invalid_character",
            ),
            (
                event_details,
                with(event(), "/location", json!("a\u{0}")),
                "eventDetails.location",
                "invalid_character",
            ),
            (
                social_details,
                with(social(), "/likes", json!(-1)),
                "socialDetails.likes",
                "invalid_value",
            ),
            (
                social_details,
                with(social(), "/shares", json!(1.5)),
                "socialDetails.shares",
                "invalid_value",
            ),
            (
                social_details,
                with(social(), "/comments", json!("1")),
                "socialDetails.comments",
                "invalid_type",
            ),
            (
                social_details,
                with(social(), "/author/avatarUrl", json!("ftp://x/y")),
                "socialDetails.author.avatarUrl",
                "invalid_format",
            ),
            (
                attachments,
                one(with(
                    attachment(),
                    "/url",
                    json!(format!("https://x/{}", "a".repeat(2_048))),
                )),
                "attachments[0].url",
                "too_long",
            ),
            (
                attachments,
                one(with(attachment(), "/mimeType", json!("pdf"))),
                "attachments[0].mimeType",
                "invalid_format",
            ),
            (
                ai_insights,
                one(with(insight(), "/confidence", json!(1.01))),
                "aiInsights[0].confidence",
                "invalid_value",
            ),
            (
                ai_insights,
                one(with(insight(), "/confidence", json!(-0.1))),
                "aiInsights[0].confidence",
                "invalid_value",
            ),
        ];
        for (check, value, path, code) in cases {
            assert_eq!(refused(check, &value), (path.to_owned(), code), "{value}");
        }
    }

    #[test]
    fn each_may_have_64_kib_and_no_more() {
        let of = |length: usize| json!([{"kind": "k", "text": "x".repeat(length)}]);
        let frame = of(0).to_string().len();
        assert!(ai_insights(&of(MAX_DETAIL_BYTES - frame)).is_ok());
        let over = refused(ai_insights, &of(MAX_DETAIL_BYTES - frame + 1));
        assert_eq!(over, ("aiInsights".to_owned(), "too_long"));
    }

    /// Names of the shapes and others, so that much of it is nearly right.
    fn any_json() -> impl Strategy<Value = Value> {
        let name = prop::sample::select(vec![
            "startsAt",
            "attendees",
            "name",
            "status",
            "platform",
            "author",
            "url",
            "likes",
            "mimeType",
            "sizeBytes",
            "kind",
            "text",
            "confidence",
            "other",
        ]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (0.0..2.0).prop_map(|number: f64| json!(number)),
            ".{0,12}".prop_map(Value::from),
            Just(json!("2026-03-01T10:00:00Z")),
            Just(json!("https://example.com/")),
            Just(json!("image/png")),
        ];
        leaf.prop_recursive(4, 48, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(name.clone().prop_map(str::to_owned), inner, 0..6)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_accepted_again_unchanged(value in any_json()) {
            for check in [event_details, social_details, attachments, ai_insights] {
                match check(&value) {
                    Ok(once) => prop_assert_eq!(check(&once).unwrap(), once),
                    Err(error) => prop_assert!(!error.field.is_empty() && !error.code.is_empty()),
                }
            }
        }

        #[test]
        fn every_insight_of_the_shape_is_accepted(
            kind in "[a-z_]{1,20}", text in "[^\\pC]{0,60}", confidence in prop::option::of(0.0..=1.0f64),
        ) {
            let mut insight = json!({"kind": kind, "text": text});
            if let Some(confidence) = confidence {
                insight["confidence"] = json!(confidence);
            }
            prop_assert!(ai_insights(&json!([insight])).is_ok());
        }
    }
}
