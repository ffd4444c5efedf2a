//! The schemas of bodies say what the extractors take.

use gravity_api::auth::dto::{LoginBody, LogoutBody, RefreshBody, RegisterBody};
use gravity_api::chat::bodies::{
    BlockBody, MarkReadBody, PreferencesBody, SendMessageBody, SubscribeBody, UnsubscribeBody,
};
use gravity_api::extract::Body;
use gravity_api::openapi;
use gravity_api::profile::dto::UpdateProfileBody;
use gravity_api::stream::action_dto::ActionBody;
use gravity_api::stream::ingest_dto::{IngestBody, RemoveBody};
use gravity_api::task::dto::{CreateTaskBody, UpdateTaskBody};
use serde_json::Value;
use std::collections::BTreeSet;

#[track_caller]
fn describes<T: Body>(document: &Value, name: &str) {
    let schema = &document["components"]["schemas"][name];
    let described: BTreeSet<_> = schema["properties"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        described,
        T::FIELDS.iter().copied().collect::<BTreeSet<_>>(),
        "{name}"
    );
}

#[test]
fn each_body_is_described_with_the_fields_it_takes() {
    let document: Value = serde_json::from_str(&openapi::to_json()).unwrap();
    describes::<CreateTaskBody>(&document, "CreateTaskBody");
    describes::<UpdateTaskBody>(&document, "UpdateTaskBody");
    describes::<UpdateProfileBody>(&document, "UpdateProfileBody");
    describes::<RegisterBody>(&document, "RegisterBody");
    describes::<LoginBody>(&document, "LoginBody");
    describes::<RefreshBody>(&document, "RefreshBody");
    describes::<LogoutBody>(&document, "LogoutBody");
    describes::<ActionBody>(&document, "ActionBody");
    describes::<IngestBody>(&document, "IngestBody");
    describes::<RemoveBody>(&document, "RemoveBody");
    describes::<SendMessageBody>(&document, "SendMessageBody");
    describes::<MarkReadBody>(&document, "MarkReadBody");
    describes::<BlockBody>(&document, "BlockBody");
    describes::<PreferencesBody>(&document, "PreferencesBody");
    describes::<SubscribeBody>(&document, "SubscribeBody");
    describes::<UnsubscribeBody>(&document, "UnsubscribeBody");
    let required = |name: &str| document["components"]["schemas"][name]["required"].clone();
    assert_eq!(required("CreateTaskBody"), serde_json::json!(["title"]));
    assert_eq!(required("UpdateTaskBody"), Value::Null);
    assert_eq!(
        required("RegisterBody"),
        serde_json::json!(["username", "password"])
    );
}

#[test]
fn every_reference_in_the_document_leads_somewhere() {
    fn walk(value: &Value, document: &Value) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(to)) = fields.get("$ref") {
                    assert!(document.pointer(to.trim_start_matches('#')).is_some(), "{to}");
                }
                fields.values().for_each(|value| walk(value, document));
            }
            Value::Array(items) => items.iter().for_each(|value| walk(value, document)),
            _ => {}
        }
    }
    let document: Value = serde_json::from_str(&openapi::to_json()).unwrap();
    walk(&document, &document);
}
