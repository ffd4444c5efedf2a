//! Holds frames against docs/specs/chat-asyncapi.json, as far as its schemas go: types, constants, enumerations, required and
//! unknown properties, formats of ids and times, references.

use serde_json::Value;

const SPEC: &str = include_str!("../../../../../../docs/specs/chat-asyncapi.json");

fn spec() -> &'static Value {
    static SPEC_JSON: std::sync::OnceLock<Value> = std::sync::OnceLock::new();
    SPEC_JSON.get_or_init(|| serde_json::from_str(SPEC).expect("the specification is JSON"))
}

/// A frame of the server must be as the specification says.
pub(super) fn check(frame: &Value) {
    let kind = frame["type"].as_str().expect("a type");
    check_as(&format!("server.{kind}"), frame);
}

fn check_as(name: &str, frame: &Value) {
    let schema = &spec()["components"]["messages"][name]["payload"];
    assert!(schema.is_object(), "{name} is not specified");
    let mut wrong = Vec::new();
    hold(schema, frame, name, &mut wrong);
    assert!(wrong.is_empty(), "{frame}\n{wrong:#?}");
}

fn hold(schema: &Value, value: &Value, path: &str, wrong: &mut Vec<String>) {
    if let Some(target) = schema["$ref"].as_str() {
        let target = spec()
            .pointer(&target[1..])
            .expect("the reference leads somewhere");
        return hold(target, value, path, wrong);
    }
    let mut demand = |is_so: bool, what: &str| {
        if !is_so {
            wrong.push(format!("{path}: {what}, not {value}"));
        }
    };
    match &schema["type"] {
        Value::String(kind) => demand(is_of(kind, value), kind),
        Value::Array(kinds) => {
            let is_one = kinds.iter().any(|kind| is_of(kind.as_str().unwrap_or(""), value));
            demand(is_one, "one of its types");
        }
        _ => {}
    }
    if let Some(constant) = schema.get("const") {
        demand(constant == value, "its constant");
    }
    if let Some(values) = schema["enum"].as_array() {
        demand(values.contains(value), "one of its values");
    }
    if let Some(text) = value.as_str() {
        match schema["format"].as_str() {
            Some("uuid") => demand(uuid::Uuid::parse_str(text).is_ok(), "a UUID"),
            Some("date-time") => demand(text.len() == 24 && text.ends_with('Z'), "a time"),
            _ => {}
        }
    }
    if let Some(object) = value.as_object() {
        for name in schema["required"].as_array().into_iter().flatten() {
            demand(
                object.contains_key(name.as_str().unwrap_or("")),
                &format!("with {name}"),
            );
        }
        for (name, value) in object {
            match schema["properties"].get(name) {
                Some(schema) => hold(schema, value, &format!("{path}.{name}"), wrong),
                None if schema["additionalProperties"] == false => {
                    wrong.push(format!("{path}.{name}: unknown"));
                }
                None => {}
            }
        }
    }
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        _ => false,
    }
}

#[test]
fn every_example_is_as_its_own_schema_says_and_every_message_has_one() {
    let messages = spec()["components"]["messages"].as_object().expect("messages");
    assert!(messages.len() > 20);
    for (name, message) in messages {
        let examples = message["examples"].as_array().expect("examples");
        assert!(!examples.is_empty(), "{name}");
        for example in examples {
            check_as(name, &example["payload"]);
        }
    }
}

#[test]
fn the_checker_finds_what_is_wrong() {
    let frame = serde_json::json!({"type": "pong", "payload": {"top": 1}, "more": 2});
    let mut wrong = Vec::new();
    hold(
        &spec()["components"]["messages"]["server.pong"]["payload"],
        &frame,
        "pong",
        &mut wrong,
    );
    assert_eq!(wrong.len(), 3, "{wrong:#?}");
}
