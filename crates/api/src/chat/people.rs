//! The calls on people: who blocks whom, who is there; and tickets for the socket.

use super::bodies::BlockBody;
use super::dto::{BlockStatusView, BlockView, BlockedView, PresenceView, TicketView, UnblockedView};
use super::query::{PRESENCE_QUERY, PathUsername, user_ids};
use crate::error::ApiError;
use crate::extract::{Bearer, CurrentUser, JsonBody, Query, WriteHeaders};
use crate::respond::{self, Data, List, Meta, Sync};
use crate::state::ApiState;
use actix_web::http::StatusCode;
use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpRequest, HttpResponse, web};

type Answer = Result<HttpResponse, ApiError>;

/// Whom one blocks, latest first. All of them: there is no paging.
#[utoipa::path(get, path = "/api/chat/blocks", tag = "chat", operation_id = "listBlocks",
    responses((status = 200, description = "The people.", body = List<BlockView<'_>>),
        (status = 304, description = "They are as `If-None-Match` says.")))]
pub(crate) async fn blocks(
    CurrentUser(who): CurrentUser,
    req: HttpRequest,
    state: web::Data<ApiState>,
) -> Answer {
    let read = state.chat.blocks.run(who.user_id).await?;
    let page = List {
        data: read.value.iter().map(BlockView::of).collect(),
        meta: Meta::next(None),
    };
    respond::list(&req, who.user_id, read.freshness, &page)
}

/// Blocks somebody: neither can send to the other from then on.
#[utoipa::path(post, path = "/api/chat/blocks", tag = "chat", operation_id = "blockUser",
    request_body = BlockBody,
    responses((status = 201, description = "Blocked.", body = Data<BlockedView<'_>>),
        (status = 200, description = "Blocked already.", body = Data<BlockedView<'_>>),
        (status = 202, description = "On disk; they will be blocked.", body = Data<BlockedView<'_>>)))]
pub(crate) async fn block(
    CurrentUser(who): CurrentUser,
    headers: WriteHeaders,
    body: JsonBody<BlockBody>,
    state: web::Data<ApiState>,
) -> Answer {
    let request = headers.creating(who.user_id, body.fingerprint);
    let blocked = state.chat.block.run(request, &body.value.username).await?;
    let status = if blocked.is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    respond::answered(&blocked.written, status, |block, sync| {
        BlockedView::of(&blocked.person, block, sync)
    })
}

/// Blocks somebody no more.
#[utoipa::path(delete, path = "/api/chat/blocks/{username}", tag = "chat", operation_id = "unblockUser",
    params(("username" = String, Path, description = "Whom.")),
    responses((status = 204, description = "Unblocked, or they were not blocked."),
        (status = 202, description = "On disk; they will be unblocked.", body = Data<UnblockedView<'_>>)))]
pub(crate) async fn unblock(
    CurrentUser(who): CurrentUser,
    PathUsername(username): PathUsername,
    headers: WriteHeaders,
    state: web::Data<ApiState>,
) -> Answer {
    let request = headers.bare(who.user_id);
    let unblocked = state.chat.unblock.run(request, &username).await?;
    Ok(match &unblocked.written {
        Some(written) => respond::gone(written, |_| UnblockedView {
            username: username.as_str(),
            sync: Sync::Pending,
        }),
        None => respond::personal(StatusCode::NO_CONTENT).finish(),
    })
}

/// Who of oneself and another blocks whom.
#[utoipa::path(get, path = "/api/chat/blocks/status/{username}", tag = "chat", operation_id = "getBlockStatus",
    params(("username" = String, Path, description = "The other.")),
    responses((status = 200, description = "The status.", body = Data<BlockStatusView>),
        (status = 304, description = "It is as `If-None-Match` says.")))]
pub(crate) async fn block_status(
    CurrentUser(who): CurrentUser,
    PathUsername(username): PathUsername,
    req: HttpRequest,
    state: web::Data<ApiState>,
) -> Answer {
    let read = state.chat.block_status.run(who.user_id, &username).await?;
    let view = Data {
        data: BlockStatusView::from(read.value),
    };
    respond::snapshot(&req, who.user_id, read.freshness, &view)
}

/// Who of some people is there: of those one shares a conversation with, and not across a block; all others are `unknown`.
#[utoipa::path(get, path = "/api/chat/presence", tag = "chat", operation_id = "getPresence",
    params(("userIds" = String, Query, description = "Up to 100 ids, with commas between them.")),
    responses((status = 200, description = "Each once, in the order asked for.", body = List<PresenceView>)))]
pub(crate) async fn presence(
    CurrentUser(who): CurrentUser,
    req: HttpRequest,
    state: web::Data<ApiState>,
) -> Answer {
    let people = user_ids(&Query::of(&req, PRESENCE_QUERY)?)?;
    let found = state.chat.presence.run(who.user_id, &people).await;
    Ok(respond::personal(StatusCode::OK).json(List {
        data: found.iter().map(PresenceView::from).collect(),
        meta: Meta::next(None),
    }))
}

/// A ticket that opens one socket, for browsers, which can send no header with it.
#[utoipa::path(post, path = "/api/chat/ws-tickets", tag = "chat", operation_id = "issueTicket",
    responses((status = 201, description = "The ticket.", body = Data<TicketView<'_>>)))]
pub(crate) async fn issue_ticket(who: Bearer, state: web::Data<ApiState>) -> Answer {
    let issued = state.chat.issue_ticket.run(who.principal, who.expires_at).await;
    let ticket = issued
        .map_err(|error| ApiError::new(crate::error::ErrorCode::SessionsUnavailable).caused_by(error))?;
    let mut response = respond::personal(StatusCode::CREATED);
    response.insert_header((CACHE_CONTROL, "no-store"));
    Ok(response.json(Data {
        data: TicketView::of(&ticket),
    }))
}
