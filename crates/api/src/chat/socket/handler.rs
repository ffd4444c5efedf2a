//! `GET /api/chat/ws`: who may open a socket, and the handshake.

use super::calls::Guest;
use super::hub::Hub;
use super::open_socket::Socket;
use super::protocol::CloseCode;
use super::reader::Reader;
use super::session::Session;
use super::writer::write_out;
use crate::error::{ApiError, ErrorCode};
use crate::extract::Query;
use crate::middleware::guard::bearer;
use crate::serve::{Taking, Transport};
use crate::state::ApiState;
use actix_web::http::header::ORIGIN;
use actix_web::{HttpRequest, HttpResponse, web};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::timeout;

/// The query parameters of the call.
pub const CONNECT_QUERY: &[&str] = &["ticket", "token", "resume"];

/// Opens a socket.
///
/// # Errors
/// `bad_request`: no WebSocket handshake; `forbidden`: the origin; `unauthenticated`: the header, the ticket or the token is not good.
#[utoipa::path(get, path = "/api/chat/ws", tag = "chat", operation_id = "openSocket",
    params(
        ("ticket" = Option<String>, Query, description = "Of `POST /api/chat/ws-tickets`."),
        ("token" = Option<String>, Query, description = "An access token, for clients that can send no header. Without `Authorization`, \
            ticket and token the first frame must be `auth`."),
        ("resume" = Option<String>, Query, description = "The last `cursor` that was seen.")),
    responses((status = 101, description = "The socket is open.")))]
pub async fn connect(
    req: HttpRequest,
    payload: web::Payload,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    open(&state.chat.socket, &req, payload).await
}

/// The same over a hub alone.
async fn open(hub: &Arc<Hub>, req: &HttpRequest, payload: web::Payload) -> Result<HttpResponse, ApiError> {
    let mut response = actix_http::ws::handshake(req.head()).map_err(|error| {
        ApiError::detailed(ErrorCode::BadRequest, format!("No WebSocket handshake: {error}."))
    })?;
    if !may_come_from(req, &hub.settings.allowed_origins) {
        return Err(ApiError::detailed(
            ErrorCode::Forbidden,
            "Sockets cannot be opened from this origin.",
        ));
    }
    let query = Query::of(req, CONNECT_QUERY)?;
    let guest = guest(hub, req, &query).await?;
    let internal = |why: String| ApiError::new(ErrorCode::InternalError).caused_by(why);
    let (taking, taken) =
        Taking::of(req).ok_or_else(|| internal("the server gives no connection away".to_owned()))?;
    let resume = query.get("resume").map(str::to_owned);
    let (hub, until_the_end) = (Arc::clone(hub), hub.take());
    actix_web::rt::spawn(async move {
        let _until_the_end = until_the_end;
        let Ok(transport) = taken.await else { return };
        let Some(socket) = hub.open() else {
            return Box::pin(turn_away(&hub, transport)).await;
        };
        let (from, to) = tokio::io::split(transport);
        let reader = Reader::new(payload, from, frame_limit(&hub, guest.as_ref()));
        Session::new(hub, socket, reader, resume).run(guest, to).await;
    });
    let response = response
        .message_body(taking.body())
        .map_err(|error| internal(error.to_string()))?;
    Ok(HttpResponse::from(response.map_into_boxed_body()))
}

fn frame_limit(hub: &Hub, guest: Option<&Guest>) -> usize {
    match guest {
        Some(_) => hub.settings.max_frame,
        None => hub.settings.max_frame_before_auth,
    }
}

/// Connections beyond those of sockets that are given time to read why they are turned away; others are cut off.
const TURNED_AWAY: usize = 1_000;
/// How long that is.
const FAREWELL: Duration = Duration::from_secs(2);

/// Says why there can be no socket.
async fn turn_away(hub: &Hub, transport: Box<dyn Transport>) {
    let socket = Socket::new(hub.settings.bounds(), hub.now());
    let code = if hub.is_stopping.load(Relaxed) {
        CloseCode::ShuttingDown
    } else {
        CloseCode::Overloaded
    };
    socket.close(code, hub.now());
    socket.finish();
    let (mut from, to) = tokio::io::split(transport);
    let has_room = hub.taken.load(Relaxed) <= hub.settings.max_sockets + TURNED_AWAY;
    let told = async {
        let _ = write_out(&socket, to).await;
        // What is left unread would take back what was written: the client is to read why before the connection goes.
        if has_room {
            let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
        }
    };
    let _ = timeout(FAREWELL, told).await;
}

async fn guest(hub: &Arc<Hub>, req: &HttpRequest, query: &Query) -> Result<Option<Guest>, ApiError> {
    let Some(ports) = hub.ports() else {
        return Err(ApiError::new(ErrorCode::Busy));
    };
    let calls = &ports.calls;
    if let Some(token) = bearer(req.headers())? {
        return calls.admit(token).await.map(Some);
    }
    if let Some(ticket) = query.get("ticket") {
        return calls.redeem(ticket).await.map(Some);
    }
    match query.get("token") {
        Some(token) => calls.admit(token).await.map(Some),
        None => Ok(None),
    }
}

/// A browser always says where a page is from; whoever says nothing is none.
fn may_come_from(req: &HttpRequest, allowed: &[String]) -> bool {
    let mut given = req.headers().get_all(ORIGIN);
    let Some(origin) = given.next() else {
        return true;
    };
    let is_allowed = |origin: &str| {
        allowed
            .iter()
            .any(|one| one == "*" || one.eq_ignore_ascii_case(origin))
    };
    given.next().is_none() && origin.to_str().is_ok_and(is_allowed)
}
