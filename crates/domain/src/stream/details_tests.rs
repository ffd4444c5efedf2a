//! What is taken and refused of the details of items.

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
