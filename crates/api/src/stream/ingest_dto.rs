//! What services feed in, as JSON. Each item is read on its own: what is wrong with one fails that one only, with the
//! first thing that is wrong.

use crate::error::FieldProblem;
use crate::extract::object::{Object, elements};
use crate::extract::{Body, Fields};
use crate::stream::action_dto::uuid;
use crate::stream::query::{priority, time};
use gravity_domain::error::FieldError;
use gravity_domain::id::UserId;
use gravity_domain::profile::AvatarUrl;
use gravity_domain::stream::details::{ai_insights, attachments, event_details, social_details};
use gravity_domain::stream::{
    ContentType, ExternalId, Flags, ItemKey, ItemTitle, MessageBody, NewItem, NewMessage, NewPerson,
    PersonName, SenderType, Snippet, Source,
};
use gravity_domain::text::{TextError, long_text};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;
use uuid::Uuid;

/// The most items of a call.
const MAX_ITEMS: usize = 500;
/// The most participants of an item.
const MAX_PARTICIPANTS: usize = 50;
/// The most messages of an item.
const MAX_MESSAGES: usize = 200;
/// The most code points of the HTML of a message.
const MAX_HTML: usize = 500_000;

/// An element of a batch: what it says, or what is wrong with it.
#[derive(Debug)]
pub struct Row<T> {
    /// What it calls its item, if it does.
    pub external_id: Option<String>,
    /// What it says.
    pub read: Result<T, FieldError>,
}

/// Items to feed in.
#[derive(Debug, ToSchema)]
pub struct IngestBody {
    /// The items; of one that is there twice the last counts.
    #[schema(value_type = Vec<super::ingest_shape::IngestItem>, min_items = 1, max_items = 500)]
    pub items: Vec<Row<NewItem>>,
}

impl Body for IngestBody {
    const FIELDS: &'static [&'static str] = &["items"];
    const IS_BATCH: bool = true;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        rows(fields, item).map(|items| Self { items })
    }
}

/// Items to take out.
#[derive(Debug, ToSchema)]
pub struct RemoveBody {
    /// Their names.
    #[schema(value_type = Vec<super::ingest_shape::IngestKey>, min_items = 1, max_items = 500)]
    pub items: Vec<Row<ItemKey>>,
}

impl Body for RemoveBody {
    const FIELDS: &'static [&'static str] = &["items"];
    const IS_BATCH: bool = true;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        rows(fields, removed_key).map(|items| Self { items })
    }
}

fn rows<T>(fields: &mut Fields<'_>, read: impl Fn(&Value) -> Result<T, FieldError>) -> Option<Vec<Row<T>>> {
    let Some(value) = fields.value("items") else {
        return fields.refuse(FieldError::new("items", "required", "is required"));
    };
    let rows = match elements("items".into(), value, MAX_ITEMS) {
        Ok(rows) if rows.is_empty() => {
            return fields.refuse(FieldError::new(
                "items",
                "required",
                "must have at least one element",
            ));
        }
        Ok(rows) => rows,
        Err(error) => return fields.refuse(error),
    };
    let row = |(_, value): (String, &Value)| Row {
        external_id: value["externalId"].as_str().map(str::to_owned),
        read: read(value),
    };
    Some(rows.into_iter().map(row).collect())
}

const KEY_FIELDS: &[&str] = &["userId", "source", "externalId"];

fn removed_key(value: &Value) -> Result<ItemKey, FieldError> {
    key(&Object::of(value, String::new(), KEY_FIELDS)?)
}

fn key(object: &Object<'_>) -> Result<ItemKey, FieldError> {
    Ok(ItemKey {
        user_id: UserId(object.required("userId", uuid)?),
        source: object.required("source", Source::parse)?,
        external_id: object.required("externalId", ExternalId::parse)?,
    })
}

const ITEM_FIELDS: &[&str] = &[
    "userId",
    "source",
    "externalId",
    "title",
    "priority",
    "timestamp",
    "isUnread",
    "isArchived",
    "snippet",
    "participants",
    "messages",
];

fn item(value: &Value) -> Result<NewItem, FieldError> {
    let object = Object::of(value, String::new(), ITEM_FIELDS)?;
    let all = |name, max| object.list(name, max);
    let people = all("participants", MAX_PARTICIPANTS)?;
    let messages = all("messages", MAX_MESSAGES)?;
    Ok(NewItem {
        key: key(&object)?,
        title: object.required("title", ItemTitle::parse)?,
        priority: object.required("priority", priority)?,
        timestamp: object.required("timestamp", time)?,
        flags: Flags {
            is_unread: object.flag("isUnread")?,
            is_archived: object.flag("isArchived")?,
        },
        snippet: object.optional("snippet", Snippet::parse)?,
        participants: people.into_iter().map(person).collect::<Result<_, _>>()?,
        messages: messages.into_iter().map(message).collect::<Result<_, _>>()?,
    })
}

const PERSON_FIELDS: &[&str] = &["externalId", "name", "avatarUrl"];

fn person((at, value): (String, &Value)) -> Result<NewPerson, FieldError> {
    let object = Object::of(value, at, PERSON_FIELDS)?;
    Ok(NewPerson {
        external_id: object.optional("externalId", ExternalId::parse)?,
        name: object.required("name", PersonName::parse)?,
        avatar_url: object.optional("avatarUrl", AvatarUrl::parse)?,
    })
}

const MESSAGE_FIELDS: &[&str] = &[
    "externalId",
    "senderExternalId",
    "senderName",
    "senderType",
    "contentType",
    "content",
    "fullContentHtml",
    "timestamp",
    "eventDetails",
    "socialDetails",
    "attachments",
    "aiInsights",
];

fn message((at, value): (String, &Value)) -> Result<NewMessage, FieldError> {
    let object = Object::of(value, at, MESSAGE_FIELDS)?;
    let html = |raw: &str| long_text(raw, MAX_HTML);
    Ok(NewMessage {
        external_id: object.required("externalId", ExternalId::parse)?,
        sender_external_id: object.optional("senderExternalId", ExternalId::parse)?,
        sender_name: object.optional("senderName", PersonName::parse)?,
        sender_type: object.required("senderType", sender_type)?,
        content_type: object.required("contentType", content_type)?,
        content: object.optional("content", MessageBody::parse)?,
        full_content_html: object.optional("fullContentHtml", html)?,
        timestamp: object.required("timestamp", time)?,
        event_details: object.shaped("eventDetails", event_details)?,
        social_details: object.shaped("socialDetails", social_details)?,
        attachments: object.shaped("attachments", attachments)?,
        ai_insights: object.shaped("aiInsights", ai_insights)?,
    })
}

fn sender_type(name: &str) -> Result<SenderType, TextError> {
    SenderType::parse(name).ok_or(TextError::Malformed("must be user, other or system"))
}

fn content_type(name: &str) -> Result<ContentType, TextError> {
    ContentType::parse(name).ok_or(TextError::Malformed("must be text, event or social"))
}

/// What became of an item fed in.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum IngestStatus {
    /// It is new, or back.
    Created,
    /// Something of it is different.
    Updated,
    /// Nothing is different.
    Unchanged,
    /// It is not as it must be: `error` tells.
    Failed,
}

/// What became of an item taken out.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RemoveStatus {
    /// It is gone.
    Removed,
    /// There was none.
    NotFound,
    /// Its name is not as it must be: `error` tells.
    Failed,
}

/// What became of one element of a batch.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RowView<S> {
    /// Its place in the request, from 0.
    pub index: usize,
    /// What the request calls it.
    #[schema(required = true)]
    pub external_id: Option<String>,
    /// The item.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub id: Option<Uuid>,
    /// What became of it.
    pub status: S,
    /// What is wrong with it: the first thing found, by its path in the item.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub error: Option<FieldProblem>,
}

/// What became of a batch.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchView<S> {
    /// Each element, in the order of the request.
    pub results: Vec<RowView<S>>,
    /// The version of the stream of each user named, for `minVersion`.
    pub versions: BTreeMap<Uuid, u64>,
}
