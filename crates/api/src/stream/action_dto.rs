//! Actions as JSON.

use crate::extract::object::{UNKNOWN_FIELD, texts};
use crate::extract::{Body, Fields};
use crate::respond::Sync;
use crate::stream::query::{FILTER_FIELDS, filter, time};
use gravity_domain::clock::Timestamp;
use gravity_domain::error::FieldError;
use gravity_domain::id::ItemId;
use gravity_domain::stream::{Action, ActionReceipt, ItemOutcome, StreamAction, StreamFilter};
use gravity_domain::text::TextError;
use serde::Serialize;
use std::collections::HashSet;
use utoipa::ToSchema;
use uuid::Uuid;

/// An action by name.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActionName {
    /// Marks as read.
    Read,
    /// Marks as unread.
    Unread,
    /// Puts away.
    Archive,
    /// Takes back.
    Unarchive,
}

/// Which items, as the list's parameters say it.
#[derive(Debug, ToSchema)]
#[schema(as = ActionFilter)]
pub struct FilterShape {
    /// `all` when not given.
    #[schema(value_type = Option<super::dto::StreamFilterName>, nullable = false)]
    pub filter: Option<String>,
    /// Only of these sources; a single one may be a string.
    #[schema(value_type = Option<Vec<String>>, nullable = false, max_items = 20)]
    pub source: Option<Vec<String>>,
    /// Only of these priorities; a single one may be a string.
    #[schema(value_type = Option<Vec<super::dto::ItemPriorityName>>, nullable = false)]
    pub priority: Option<Vec<String>>,
    /// Not before.
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    pub since: Option<Timestamp>,
    /// Before.
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    pub until: Option<Timestamp>,
}

/// Which items an action is for.
#[derive(Debug, PartialEq, Eq)]
pub enum Chosen {
    /// These, each once.
    Ids(Vec<ItemId>),
    /// Those that it finds.
    Filter(StreamFilter),
}

/// An action on items: either `ids` or `filter` says which.
#[derive(Debug, ToSchema)]
#[schema(as = ActionBody, rename_all = "camelCase")]
pub struct ActionShape {
    /// What is done.
    #[schema(value_type = ActionName)]
    pub action: Action,
    /// These items.
    #[schema(value_type = Option<Vec<Uuid>>, nullable = false, min_items = 1, max_items = 200)]
    pub ids: Option<Vec<ItemId>>,
    /// The items that it finds.
    #[schema(value_type = Option<FilterShape>, nullable = false)]
    pub filter: Option<StreamFilter>,
    /// What is newer, by its time or its arrival, is left alone: `asOf` of the page that was looked at. Must be there
    /// with `filter`.
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    pub as_of: Option<Timestamp>,
}

/// An action on items.
#[derive(Debug)]
pub struct ActionBody {
    /// What is done.
    pub action: Action,
    /// To which items.
    pub chosen: Chosen,
    /// What is newer is left alone.
    pub as_of: Option<Timestamp>,
}

impl Body for ActionBody {
    const FIELDS: &'static [&'static str] = &["action", "ids", "filter", "asOf"];

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let action = fields.required("action", action);
        let as_of = fields.optional("asOf", time);
        let chosen = match (fields.value("ids"), fields.value("filter")) {
            (Some(ids), None) => noted(fields, chosen_ids(ids)).map(Chosen::Ids),
            (None, Some(value)) => noted(fields, filter(value)).map(Chosen::Filter),
            (None, None) => fields.refuse(FieldError::new(
                "ids",
                "required",
                "either `ids` or `filter` is required",
            )),
            (Some(_), Some(_)) => fields.refuse(FieldError::new(
                "filter",
                "invalid_value",
                "cannot be there together with `ids`",
            )),
        };
        let (action, chosen, as_of) = (action?, chosen?, as_of?);
        if matches!(chosen, Chosen::Filter(_)) && as_of.is_none() {
            return fields.refuse(FieldError::new("asOf", "required", "is required with `filter`"));
        }
        Some(Self {
            action,
            chosen,
            as_of,
        })
    }
}

fn noted<T>(fields: &mut Fields<'_>, read: Result<T, FieldError>) -> Option<T> {
    match read {
        Ok(value) => Some(value),
        Err(error) if error.code == UNKNOWN_FIELD => fields.refuse_unknown(&error.field, FILTER_FIELDS),
        Err(error) => fields.refuse(error),
    }
}

fn action(name: &str) -> Result<Action, TextError> {
    Action::parse(name).ok_or(TextError::Malformed("must be read, unread, archive or unarchive"))
}

/// A UUID with hyphens.
pub(crate) fn uuid(text: &str) -> Result<Uuid, TextError> {
    let id = Some(text).filter(|text| text.len() == 36);
    id.and_then(|text| Uuid::try_parse(text).ok())
        .ok_or(TextError::Malformed("must be a UUID with hyphens"))
}

fn chosen_ids(value: &serde_json::Value) -> Result<Vec<ItemId>, FieldError> {
    let mut ids = texts("ids".into(), value, StreamAction::MAX_IDS, |text| {
        uuid(text).map(ItemId)
    })?;
    if ids.is_empty() {
        return Err(FieldError::new(
            "ids",
            "required",
            "must have at least one element",
        ));
    }
    let mut seen = HashSet::new();
    ids.retain(|id| seen.insert(*id));
    Ok(ids)
}

/// What became of one item.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeName {
    /// It is as wanted, or will be.
    Applied,
    /// It is newer than `asOf`.
    Skipped,
    /// There is no such item.
    NotFound,
}

/// One item and what became of it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActionResult {
    /// The item.
    pub id: Uuid,
    /// What became of it.
    #[schema(value_type = OutcomeName)]
    pub result: &'static str,
}

impl ActionResult {
    fn of((id, outcome): &(ItemId, ItemOutcome)) -> Self {
        Self {
            id: id.0,
            result: outcome.as_str(),
        }
    }
}

/// What an action did.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActionView {
    /// Each item once, in the order of the request.
    pub results: Vec<ActionResult>,
    /// Whether the filter finds more than could be taken at once; older items were left alone then.
    pub has_more: bool,
    /// The stream's version after it; `null` while it is on its way.
    #[schema(required = true)]
    pub version: Option<u64>,
    /// Whether it is in Postgres.
    pub sync: Sync,
}

impl ActionView {
    /// `receipt` as the user sees it.
    pub fn of(receipt: &ActionReceipt, has_more: bool, sync: Sync) -> Self {
        Self {
            results: receipt.results.iter().map(ActionResult::of).collect(),
            has_more,
            version: receipt.version,
            sync,
        }
    }
}
