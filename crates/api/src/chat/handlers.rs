//! The calls on conversations and their messages.

use super::bodies::{MarkReadBody, SendMessageBody};
use super::dto::{ChatMessageView, ConversationView, ReadView, SentMessageView, UnreadView};
use super::query::{LIST_QUERY, MESSAGES_QUERY, PathUsername, which};
use crate::error::{ApiError, ErrorCode, rate_limit_headers};
use crate::extract::{CurrentUser, JsonBody, OptionalJsonBody, PathId, Query, WriteHeaders};
use crate::respond::{self, Data, List, Meta};
use crate::state::ApiState;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderValue, LOCATION};
use actix_web::{HttpRequest, HttpResponse, web};
use gravity_domain::auth::{AuthError, RateDecision};
use gravity_domain::chat::MessageCursor;
use gravity_domain::id::{ChatMessageId, ConversationId};
use gravity_usecase::chat::{ChatError, NewSend};
use gravity_usecase::sync::Written;

type Answer = Result<HttpResponse, ApiError>;

/// One's conversations, newest activity first.
#[utoipa::path(get, path = "/api/chat/conversations", tag = "chat", operation_id = "listConversations",
    params(
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before."),
        ("limit" = Option<u8>, Query, description = "How many, 20 when not given.", minimum = 1, maximum = 100)),
    responses((status = 200, description = "A page.", body = List<ConversationView<'_>>),
        (status = 304, description = "It is as `If-None-Match` says.")))]
pub(crate) async fn list(
    CurrentUser(who): CurrentUser,
    req: HttpRequest,
    state: web::Data<ApiState>,
) -> Answer {
    let query = Query::of(&req, LIST_QUERY)?;
    let (after, limit) = (query.cursor()?, query.limit()?);
    let read = state.chat.list.run(who.user_id, after, limit).await?;
    let page = List {
        data: read.value.items.iter().map(ConversationView::of).collect(),
        meta: Meta::next(read.value.next),
    };
    respond::list(&req, who.user_id, read.freshness, &page)
}

/// The conversation with somebody: the one there is, or a new one.
#[utoipa::path(get, path = "/api/chat/conversations/with/{username}", tag = "chat", operation_id = "openConversation",
    params(("username" = String, Path, description = "The other.")),
    responses((status = 200, description = "There was one.", body = Data<ConversationView<'_>>),
        (status = 201, description = "Opened.", body = Data<ConversationView<'_>>),
        (status = 304, description = "It is as `If-None-Match` says.")))]
pub(crate) async fn open(
    CurrentUser(who): CurrentUser,
    PathUsername(username): PathUsername,
    req: HttpRequest,
    state: web::Data<ApiState>,
) -> Answer {
    let opened = state.chat.open.run(who.user_id, &username).await?;
    let view = Data {
        data: ConversationView::of(&opened.read.value),
    };
    let mut response = if opened.is_new {
        respond::personal(StatusCode::CREATED).json(view)
    } else {
        respond::snapshot(&req, who.user_id, opened.read.freshness, &view)?
    };
    if let Some(rate) = &opened.rate {
        tell_rate(&mut response, rate);
    }
    Ok(response)
}

/// What there is to read.
#[utoipa::path(get, path = "/api/chat/conversations/unread-count", tag = "chat", operation_id = "countUnread",
    responses((status = 200, description = "The counts.", body = Data<UnreadView>),
        (status = 304, description = "They are as `If-None-Match` says.")))]
pub(crate) async fn unread_count(
    CurrentUser(who): CurrentUser,
    req: HttpRequest,
    state: web::Data<ApiState>,
) -> Answer {
    let read = state.chat.unread.run(who.user_id).await?;
    let view = Data {
        data: UnreadView::from(read.value),
    };
    respond::snapshot(&req, who.user_id, read.freshness, &view)
}

/// The messages of a conversation: newest first, or with `afterSeq` oldest first.
#[utoipa::path(get, path = "/api/chat/conversations/{id}/messages", tag = "chat", operation_id = "listChatMessages",
    params(("id" = uuid::Uuid, Path, description = "The conversation."),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before."),
        ("afterSeq" = Option<u64>, Query, description = "For catching up: what comes after this place, oldest first. \
            `meta.hasMore` says whether there is more; not together with `cursor`."),
        ("limit" = Option<u8>, Query, description = "How many, 20 when not given.", minimum = 1, maximum = 100)),
    responses((status = 200, description = "A page.", body = List<ChatMessageView<'_>>),
        (status = 304, description = "It is as `If-None-Match` says.")))]
pub(crate) async fn messages(
    CurrentUser(who): CurrentUser,
    PathId(id): PathId<ConversationId>,
    req: HttpRequest,
    state: web::Data<ApiState>,
) -> Answer {
    let query = Query::of(&req, MESSAGES_QUERY)?;
    let (which, limit) = (which(&query, id)?, query.limit()?);
    let read = state.chat.messages.run(who.user_id, id, which, limit).await?;
    let page = List {
        data: read.value.messages.iter().map(ChatMessageView::of).collect(),
        meta: Meta {
            next_cursor: read.value.next.map(MessageCursor::encode),
            has_more: read.value.has_more,
        },
    };
    respond::list(&req, who.user_id, read.freshness, &page)
}

/// Sends a message.
#[utoipa::path(post, path = "/api/chat/conversations/{id}/messages", tag = "chat", operation_id = "sendChatMessage",
    params(("id" = uuid::Uuid, Path, description = "The conversation.")),
    request_body = SendMessageBody,
    responses((status = 201, description = "Stored.", body = Data<SentMessageView<'_>>),
        (status = 202, description = "On disk; it will be stored.", body = Data<SentMessageView<'_>>),
        (status = 200, description = "It had been sent before, by the same `clientMessageId`.", body = Data<SentMessageView<'_>>)))]
pub(crate) async fn send(
    CurrentUser(who): CurrentUser,
    PathId(id): PathId<ConversationId>,
    headers: WriteHeaders,
    body: JsonBody<SendMessageBody>,
    state: web::Data<ApiState>,
) -> Answer {
    let request = headers.creating(who.user_id, body.fingerprint);
    let has_key = request.key.is_some();
    let message = NewSend {
        conversation_id: id,
        client_message_id: body.value.client_message_id,
        content: body.value.content,
    };
    let sent = state.chat.send.run(request, message).await?;
    // A replay by key is the first answer again; one by the message's own id is a message that is there.
    let is_there = sent.is_replay && (!has_key || sent.message().is_repeat);
    let status = if is_there {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    let path = format!("/api/chat/messages/{}", sent.message().id);
    let (rate, written) = (
        sent.rate,
        Written {
            outcome: sent.outcome,
            operation_id: sent.operation_id,
            replayed: sent.is_replay,
        },
    );
    let mut response = respond::written(who.user_id, &written, status, SentMessageView::of)?;
    if let Ok(path) = HeaderValue::from_str(&path) {
        response.headers_mut().insert(LOCATION, path);
    }
    tell_rate(&mut response, &rate);
    Ok(response)
}

/// Marks messages as read, up to and including one. It never goes back.
#[utoipa::path(post, path = "/api/chat/conversations/{id}/read", tag = "chat", operation_id = "markRead",
    params(("id" = uuid::Uuid, Path, description = "The conversation.")),
    request_body = Option<MarkReadBody>,
    responses((status = 200, description = "How far one has read now.", body = Data<ReadView>),
        (status = 202, description = "On disk; one's own reads show it at once.", body = Data<ReadView>)))]
pub(crate) async fn read(
    CurrentUser(who): CurrentUser,
    PathId(id): PathId<ConversationId>,
    headers: WriteHeaders,
    body: OptionalJsonBody<MarkReadBody>,
    state: web::Data<ApiState>,
) -> Answer {
    let request = headers.creating(who.user_id, body.fingerprint);
    let written = state.chat.read.run(request, id, body.value.message_id).await?;
    respond::answered(&written, StatusCode::OK, ReadView::of)
}

/// A message of one of one's conversations.
#[utoipa::path(get, path = "/api/chat/messages/{id}", tag = "chat", operation_id = "getChatMessage",
    params(("id" = uuid::Uuid, Path, description = "The message.")),
    responses((status = 200, description = "The message.", body = Data<ChatMessageView<'_>>),
        (status = 304, description = "It is as `If-None-Match` says.")))]
pub(crate) async fn message(
    CurrentUser(who): CurrentUser,
    PathId(id): PathId<ChatMessageId>,
    req: HttpRequest,
    state: web::Data<ApiState>,
) -> Answer {
    let read = state.chat.message.run(who.user_id, id).await?;
    respond::entity(&req, who.user_id, &read, |message, _| {
        ChatMessageView::of(message)
    })
}

fn tell_rate(response: &mut HttpResponse, rate: &RateDecision) {
    for (name, value) in rate_limit_headers(rate) {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
}

impl From<ChatError> for ApiError {
    fn from(error: ChatError) -> Self {
        match error {
            ChatError::Oneself => Self::new(ErrorCode::Oneself),
            ChatError::Invalid(error) => Self::validation(vec![error]),
            ChatError::RateLimited(rate) => AuthError::RateLimited(rate).into(),
            ChatError::Read(error) => error.into(),
            ChatError::Write(error) => error.into(),
        }
    }
}
