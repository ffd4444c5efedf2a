//! The calls on one's stream.

use super::action_dto::{ActionBody, ActionView, Chosen};
use super::dto::{ChangesView, ItemDetailEnvelope, MessageView, StreamPageView};
use super::query::{CHANGES_QUERY, ITEM_QUERY, LIST_QUERY, MESSAGES_QUERY, Subject, page, seen};
use crate::error::{ApiError, ErrorCode};
use crate::extract::query::invalid;
use crate::extract::{CurrentUser, JsonBody, PathId, Query, WriteHeaders};
use crate::respond::{self, Condition, Data, List, Meta};
use crate::state::ApiState;
use actix_web::http::StatusCode;
use actix_web::http::header::{AGE, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use gravity_domain::id::ItemId;
use gravity_domain::sync::Freshness;
use gravity_usecase::stream::{ChangesError, Selector};

type Answer = Result<HttpResponse, ApiError>;

/// One's stream, newest first.
#[utoipa::path(get, path = "/v2/stream", tag = "stream", operation_id = "listStream",
    params(
        ("minVersion" = Option<u64>, Query, description = "Not older than this version, as ingest or an action told it. \
            While that cannot be had, 503; of a version that there is not yet, the newest."),
        ("filter" = Option<super::dto::StreamFilterName>, Query, description = "`all` when not given."),
        ("source" = Option<Vec<String>>, Query, description = "Only of these sources; may be repeated, up to 20 times."),
        ("priority" = Option<Vec<super::dto::ItemPriorityName>>, Query, description = "Only of these priorities; may be repeated."),
        ("since" = Option<String>, Query, description = "Not before this time.", format = DateTime),
        ("until" = Option<String>, Query, description = "Before this time.", format = DateTime),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before."),
        ("limit" = Option<u8>, Query, description = "How many, 20 when not given.", minimum = 1, maximum = 100)),
    responses((status = 200, description = "A page.", body = StreamPageView<'_>),
        (status = 304, description = "It is as `If-None-Match` says.")))]
pub(crate) async fn list(
    CurrentUser(who): CurrentUser,
    req: HttpRequest,
    state: web::Data<ApiState>,
) -> Answer {
    let query = Query::of(&req, LIST_QUERY)?;
    let (asked, user) = (page(&query)?, who.user_id);
    let known = seen(req.headers());
    let at_least = known.max(query.number("minVersion")?.unwrap_or(0));
    let subject = Subject::page(user, &asked);
    if known > 0 {
        let version = state.stream.list.version(user, at_least).await;
        let tag = version.map(|version| subject.tag(version, None));
        if let Some(tag) = tag.filter(|tag| respond::is_known(&req, tag)) {
            return Ok(respond::not_modified(tag));
        }
    }
    let read = state.stream.list.run(user, &asked, at_least).await?;
    let page = &read.page;
    let body = respond::rendered(&page.rendered, || StreamPageView::of(page))?;
    let folded = read.is_folded.then_some(&body[..]);
    let condition = Condition {
        tag: subject.tag(page.version, folded),
        freshness: read.freshness,
        age_seconds: Some(read.age_seconds),
    };
    Ok(respond::conditional(&req, condition, body))
}

/// One item with its newest messages.
#[utoipa::path(get, path = "/v2/stream/{itemId}", tag = "stream", operation_id = "getStreamItem",
    params(("itemId" = uuid::Uuid, Path, description = "The item."),
        ("minVersion" = Option<u64>, Query, description = "Not older than this version of the stream.")),
    responses((status = 200, description = "The item.", body = ItemDetailEnvelope<'_>),
        (status = 304, description = "It is as `If-None-Match` says.")))]
pub(crate) async fn get(
    CurrentUser(who): CurrentUser,
    PathId(id): PathId<ItemId>,
    req: HttpRequest,
    state: web::Data<ApiState>,
) -> Answer {
    let query = Query::of(&req, ITEM_QUERY)?;
    let at_least = seen(req.headers()).max(query.number("minVersion")?.unwrap_or(0));
    let read = state.stream.get.run(who.user_id, id, at_least).await?;
    let detail = &read.detail;
    let view = || ItemDetailEnvelope::of(&detail.item, &detail.messages, detail.next);
    let body = respond::rendered(&detail.rendered, view)?;
    let folded = read.is_folded.then_some(&body[..]);
    let condition = Condition {
        tag: Subject::item(who.user_id, id).tag(detail.item.version, folded),
        freshness: read.freshness,
        age_seconds: Some(read.age_seconds),
    };
    Ok(respond::conditional(&req, condition, body))
}

/// The messages of one item, newest first.
#[utoipa::path(get, path = "/v2/stream/{itemId}/messages", tag = "stream", operation_id = "listStreamMessages",
    params(("itemId" = uuid::Uuid, Path, description = "The item."),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before, or the item's `messagesCursor`."),
        ("limit" = Option<u8>, Query, description = "How many, 20 when not given.", minimum = 1, maximum = 100)),
    responses((status = 200, description = "A page.", body = List<MessageView<'_>>),
        (status = 304, description = "It is as `If-None-Match` says.")))]
pub(crate) async fn messages(
    CurrentUser(who): CurrentUser,
    PathId(id): PathId<ItemId>,
    req: HttpRequest,
    state: web::Data<ApiState>,
) -> Answer {
    let query = Query::of(&req, MESSAGES_QUERY)?;
    let (after, limit) = (query.cursor()?, query.limit()?);
    let read = state.stream.messages.run(who.user_id, id, after, limit).await?;
    let page = List {
        data: read.page.items.iter().map(MessageView::of).collect(),
        meta: Meta::next(read.page.next),
    };
    let mut response = respond::list(&req, who.user_id, read.freshness, &page)?;
    if read.freshness == Freshness::Stale {
        response.headers_mut().insert(AGE, read.age_seconds.into());
    }
    Ok(response)
}

/// What has changed since a version.
#[utoipa::path(get, path = "/v2/stream/changes", tag = "stream", operation_id = "listStreamChanges",
    params(("since" = u64, Query, description = "`version` of an earlier answer; 0 for everything.")),
    responses((status = 200, description = "The ids of what has changed.", body = Data<ChangesView>)))]
pub(crate) async fn changes(
    CurrentUser(who): CurrentUser,
    req: HttpRequest,
    state: web::Data<ApiState>,
) -> Answer {
    let query = Query::of(&req, CHANGES_QUERY)?;
    let since = query.number("since")?;
    let since = since.ok_or_else(|| invalid("`since` is required."))?;
    let read = state.stream.changes.run(who.user_id, since).await?;
    let mut response = respond::data(StatusCode::OK, ChangesView::from(read.value));
    let word = match read.freshness {
        Freshness::Current => return Ok(response),
        Freshness::Stale => "stale",
        Freshness::Pending => "pending",
    };
    let headers = response.headers_mut();
    headers.insert(respond::CONSISTENCY, HeaderValue::from_static(word));
    Ok(response)
}

/// Marks items as read or unread, or puts them away or takes them back.
#[utoipa::path(post, path = "/v2/stream/actions", tag = "stream", operation_id = "actOnStream",
    request_body = super::action_dto::ActionShape,
    responses((status = 200, description = "Done.", body = Data<ActionView>),
        (status = 202, description = "On disk; it will be done. One's own reads show it at once.", body = Data<ActionView>)))]
pub(crate) async fn act(
    CurrentUser(who): CurrentUser,
    headers: WriteHeaders,
    body: JsonBody<ActionBody>,
    state: web::Data<ApiState>,
) -> Answer {
    let request = headers.creating(who.user_id, body.fingerprint);
    let ActionBody {
        action,
        chosen,
        as_of,
    } = body.value;
    let selector = match chosen {
        Chosen::Ids(ids) => Selector::Ids(ids),
        Chosen::Filter(filter) => Selector::Filter(filter),
    };
    let acted = state.stream.act.run(request, selector, action, as_of).await?;
    let version = |receipt: &gravity_domain::stream::ActionReceipt| receipt.version;
    let mut response = respond::done(&acted.written, version, |receipt, sync| {
        ActionView::of(receipt, acted.has_more, sync)
    })?;
    if !acted.is_written {
        response.headers_mut().remove(respond::OPERATION_ID);
    }
    Ok(response)
}

impl From<ChangesError> for ApiError {
    fn from(error: ChangesError) -> Self {
        match error {
            ChangesError::FutureVersion { current } => invalid(format!(
                "`since` is a version that there is not yet: the stream is at {current}."
            )),
            ChangesError::CannotCalculate => Self::new(ErrorCode::CannotCalculate),
            ChangesError::Read(error) => error.into(),
        }
    }
}
