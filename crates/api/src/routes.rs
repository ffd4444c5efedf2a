//! Every route, in one table: who may call it, what it takes, and how it may fail. The table is what is registered, what
//! the guards enforce, where the error answers of the OpenAPI document come from, and what tests walk.

use crate::error::{ApiError, ErrorCode};
use crate::middleware::guard;
use crate::{auth, chat, docs, health, profile, stream, sync, task};
use actix_web::guard::{Any, Get, Head};
use actix_web::http::Method;
use actix_web::http::header::ALLOW;
use actix_web::middleware::from_fn;
use actix_web::web::ServiceConfig;
use actix_web::{HttpResponse, Route, web};
use std::collections::HashSet;

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// Anybody.
    Public,
    /// Anybody with a valid token.
    User,
    /// Role `admin`.
    Admin,
    /// Role `service` or `admin`.
    Service,
}

/// A route. `GET` answers `HEAD` too.
pub struct RouteInfo {
    /// `GET`, `POST`, `PUT` or `DELETE`.
    pub method: &'static str,
    /// Its pattern.
    pub path: &'static str,
    /// Who may call it.
    pub auth: Auth,
    /// The query parameters it knows, with a `*` after those that may be repeated; `None`: any are let through and nobody reads them.
    pub query: Option<&'static [&'static str]>,
    /// Whether it takes a JSON body.
    pub body: bool,
    /// How it may fail beyond what follows from the above.
    pub errors: &'static [ErrorCode],
    handler: fn() -> Route,
}

/// Every route.
pub fn routes() -> &'static [RouteInfo] {
    ROUTES
}

use ErrorCode::{
    BadRequest, Blocked, BufferFull, BufferUnavailable, Busy, CannotCalculate, DatabaseUnavailable,
    Forbidden, IdempotencyKeyReused, InvalidCredentials, InvalidCursor, InvalidHeader, InvalidId,
    InvalidParameter, KeysUnavailable, MessageIdReused, NotFound, Oneself, RateLimited, SessionsUnavailable,
    Unauthenticated, Undecodable, UsernameTaken, VersionMismatch, WriteRefused,
};

const READ_ONE: &[ErrorCode] = &[InvalidId, NotFound, DatabaseUnavailable, BufferUnavailable];
const READ_LIST: &[ErrorCode] = &[
    InvalidCursor,
    InvalidParameter,
    DatabaseUnavailable,
    BufferUnavailable,
];
const READ_ITEM: &[ErrorCode] = &[
    InvalidId,
    InvalidParameter,
    NotFound,
    DatabaseUnavailable,
    BufferUnavailable,
];
const READ_MESSAGES: &[ErrorCode] = &[
    InvalidId,
    InvalidCursor,
    InvalidParameter,
    NotFound,
    DatabaseUnavailable,
];
const READ_CONVERSATION: &[ErrorCode] = &[
    InvalidId,
    InvalidCursor,
    InvalidParameter,
    NotFound,
    DatabaseUnavailable,
    BufferUnavailable,
];
const FEED: &[ErrorCode] = &[RateLimited, WriteRefused, DatabaseUnavailable];
const CREATE: &[ErrorCode] = &[
    InvalidHeader,
    IdempotencyKeyReused,
    WriteRefused,
    DatabaseUnavailable,
    BufferFull,
    BufferUnavailable,
];
const CHANGE: &[ErrorCode] = &[
    InvalidId,
    InvalidHeader,
    NotFound,
    VersionMismatch,
    IdempotencyKeyReused,
    WriteRefused,
    DatabaseUnavailable,
    BufferFull,
    BufferUnavailable,
];
const CHANGE_OWN: &[ErrorCode] = &[
    InvalidHeader,
    NotFound,
    VersionMismatch,
    IdempotencyKeyReused,
    WriteRefused,
    DatabaseUnavailable,
    BufferFull,
    BufferUnavailable,
];

const READ_OWN: &[ErrorCode] = &[DatabaseUnavailable, BufferUnavailable];
const READ_PERSON: &[ErrorCode] = &[Oneself, NotFound, DatabaseUnavailable, BufferUnavailable];
const SEND: &[ErrorCode] = &[
    InvalidId,
    InvalidHeader,
    Blocked,
    NotFound,
    MessageIdReused,
    IdempotencyKeyReused,
    WriteRefused,
    RateLimited,
    DatabaseUnavailable,
    BufferFull,
    BufferUnavailable,
];
const MARK: &[ErrorCode] = &[
    InvalidId,
    InvalidHeader,
    NotFound,
    IdempotencyKeyReused,
    WriteRefused,
    DatabaseUnavailable,
    BufferFull,
    BufferUnavailable,
];
const BLOCK: &[ErrorCode] = &[
    InvalidHeader,
    Oneself,
    NotFound,
    IdempotencyKeyReused,
    WriteRefused,
    DatabaseUnavailable,
    BufferFull,
    BufferUnavailable,
];

const fn route(method: &'static str, path: &'static str, auth: Auth, handler: fn() -> Route) -> RouteInfo {
    RouteInfo {
        method,
        path,
        auth,
        query: Some(&[]),
        body: false,
        errors: &[],
        handler,
    }
}

impl RouteInfo {
    const fn errors(mut self, errors: &'static [ErrorCode]) -> Self {
        self.errors = errors;
        self
    }

    const fn query(mut self, query: &'static [&'static str]) -> Self {
        self.query = Some(query);
        self
    }

    const fn any_query(mut self) -> Self {
        self.query = None;
        self
    }

    const fn body(mut self) -> Self {
        self.body = true;
        self
    }
}

use Auth::{Admin, Public, Service, User};

static ROUTES: &[RouteInfo] = &[
    // operators
    route("GET", "/live", Public, || web::to(health::handlers::live)).any_query(),
    route("GET", "/ready", Public, || web::to(health::handlers::ready)).any_query(),
    route("GET", "/health", Public, || web::to(health::handlers::health)).any_query(),
    route("GET", "/metrics", Public, || web::to(health::handlers::metrics)).any_query(),
    route("GET", "/openapi.json", Public, || web::to(docs::openapi_json)).any_query(),
    route("GET", "/docs", Public, || web::to(docs::to_docs)).any_query(),
    route("GET", "/docs/{file:.*}", Public, || web::to(docs::page)).any_query(),
    // auth
    route("POST", "/api/v1/auth/register", Public, || {
        web::to(auth::handlers::register)
    })
    .body()
    .errors(&[UsernameTaken, RateLimited, Forbidden, DatabaseUnavailable, Busy]),
    route("POST", "/api/v1/auth/login", Public, || {
        web::to(auth::handlers::login)
    })
    .body()
    .errors(&[
        InvalidCredentials,
        RateLimited,
        Forbidden,
        DatabaseUnavailable,
        SessionsUnavailable,
        Busy,
    ]),
    route("POST", "/api/v1/auth/refresh", Public, || {
        web::to(auth::handlers::refresh)
    })
    .body()
    .errors(&[Unauthenticated, Forbidden, SessionsUnavailable]),
    route("POST", "/api/v1/auth/logout", User, || {
        web::to(auth::handlers::logout)
    })
    .body()
    .errors(&[SessionsUnavailable]),
    route("GET", "/api/v1/auth/sessions", User, || {
        web::to(auth::handlers::list_sessions)
    })
    .errors(&[SessionsUnavailable]),
    route("DELETE", "/api/v1/auth/sessions/{id}", User, || {
        web::to(auth::handlers::delete_session)
    })
    .errors(&[InvalidId, NotFound, SessionsUnavailable]),
    // profile
    route("GET", "/api/v1/profile", User, || web::to(profile::handlers::get)).errors(&[
        NotFound,
        DatabaseUnavailable,
        BufferUnavailable,
    ]),
    route("PUT", "/api/v1/profile", User, || {
        web::to(profile::handlers::update)
    })
    .body()
    .errors(CHANGE_OWN),
    // tasks
    route("GET", "/api/v1/tasks", User, || web::to(task::handlers::list))
        .query(task::dto::LIST_QUERY)
        .errors(READ_LIST),
    route("POST", "/api/v1/tasks", User, || web::to(task::handlers::create))
        .body()
        .errors(CREATE),
    route("GET", "/api/v1/tasks/{id}", User, || web::to(task::handlers::get)).errors(READ_ONE),
    route("PUT", "/api/v1/tasks/{id}", User, || {
        web::to(task::handlers::update)
    })
    .body()
    .errors(CHANGE),
    route("DELETE", "/api/v1/tasks/{id}", User, || {
        web::to(task::handlers::delete)
    })
    .errors(CHANGE),
    // stream
    route("GET", "/v2/stream", User, || web::to(stream::handlers::list))
        .query(stream::query::LIST_QUERY)
        .errors(READ_LIST),
    route("GET", "/v2/stream/changes", User, || {
        web::to(stream::handlers::changes)
    })
    .query(stream::query::CHANGES_QUERY)
    .errors(&[
        InvalidParameter,
        CannotCalculate,
        DatabaseUnavailable,
        BufferUnavailable,
    ]),
    route("POST", "/v2/stream/actions", User, || {
        web::to(stream::handlers::act)
    })
    .body()
    .errors(CREATE),
    route("GET", "/v2/stream/{itemId}", User, || {
        web::to(stream::handlers::get)
    })
    .query(stream::query::ITEM_QUERY)
    .errors(READ_ITEM),
    route("GET", "/v2/stream/{itemId}/messages", User, || {
        web::to(stream::handlers::messages)
    })
    .query(stream::query::MESSAGES_QUERY)
    .errors(READ_MESSAGES),
    route("POST", "/v2/ingest/items", Service, || {
        web::to(stream::ingest::ingest)
    })
    .body()
    .errors(FEED),
    route("DELETE", "/v2/ingest/items", Service, || {
        web::to(stream::ingest::remove)
    })
    .body()
    .errors(FEED),
    // chat
    route("GET", "/api/chat/conversations", User, || {
        web::to(chat::handlers::list)
    })
    .query(chat::query::LIST_QUERY)
    .errors(READ_LIST),
    route("GET", "/api/chat/conversations/unread-count", User, || {
        web::to(chat::handlers::unread_count)
    })
    .errors(READ_OWN),
    route("GET", "/api/chat/conversations/with/{username}", User, || {
        web::to(chat::handlers::open)
    })
    .errors(&[
        Oneself,
        NotFound,
        RateLimited,
        DatabaseUnavailable,
        BufferUnavailable,
    ]),
    route("GET", "/api/chat/conversations/{id}/messages", User, || {
        web::to(chat::handlers::messages)
    })
    .query(chat::query::MESSAGES_QUERY)
    .errors(READ_CONVERSATION),
    route("POST", "/api/chat/conversations/{id}/messages", User, || {
        web::to(chat::handlers::send)
    })
    .body()
    .errors(SEND),
    route("POST", "/api/chat/conversations/{id}/read", User, || {
        web::to(chat::handlers::read)
    })
    .body()
    .errors(MARK),
    route("GET", "/api/chat/messages/{id}", User, || {
        web::to(chat::handlers::message)
    })
    .errors(READ_ONE),
    route("GET", "/api/chat/blocks", User, || web::to(chat::people::blocks)).errors(READ_OWN),
    route("POST", "/api/chat/blocks", User, || web::to(chat::people::block))
        .body()
        .errors(BLOCK),
    route("GET", "/api/chat/blocks/status/{username}", User, || {
        web::to(chat::people::block_status)
    })
    .errors(READ_PERSON),
    route("DELETE", "/api/chat/blocks/{username}", User, || {
        web::to(chat::people::unblock)
    })
    .errors(BLOCK),
    route("GET", "/api/chat/presence", User, || {
        web::to(chat::people::presence)
    })
    .query(chat::query::PRESENCE_QUERY)
    .errors(&[InvalidParameter]),
    route("POST", "/api/chat/ws-tickets", User, || {
        web::to(chat::people::issue_ticket)
    })
    .errors(&[SessionsUnavailable]),
    route("GET", "/api/chat/ws", Public, || web::to(chat::socket::connect))
        .query(chat::socket::CONNECT_QUERY)
        .errors(&[
            BadRequest,
            InvalidParameter,
            Unauthenticated,
            Forbidden,
            SessionsUnavailable,
            KeysUnavailable,
            Busy,
        ]),
    route("GET", "/api/chat/notifications/preferences", User, || {
        web::to(chat::notifications::preferences)
    })
    .errors(&[DatabaseUnavailable]),
    route("PUT", "/api/chat/notifications/preferences", User, || {
        web::to(chat::notifications::set_preferences)
    })
    .body()
    .errors(&[DatabaseUnavailable]),
    route("POST", "/api/chat/notifications/subscriptions", User, || {
        web::to(chat::notifications::subscribe)
    })
    .body()
    .errors(&[DatabaseUnavailable]),
    route("DELETE", "/api/chat/notifications/subscriptions", User, || {
        web::to(chat::notifications::unsubscribe)
    })
    .body()
    .errors(&[NotFound, DatabaseUnavailable]),
    route("GET", "/api/chat/notifications/vapid-key", User, || {
        web::to(chat::notifications::vapid_key)
    })
    .errors(&[NotFound]),
    // sync
    route("GET", "/api/v1/operations/{id}", User, || {
        web::to(sync::handlers::get)
    })
    .errors(READ_ONE),
    route("GET", "/api/v1/admin/buffer", Admin, || {
        web::to(sync::admin::buffer)
    }),
    route("GET", "/api/v1/admin/dead-letters", Admin, || {
        web::to(sync::admin::list_dead_letters)
    })
    .query(sync::admin::LIST_QUERY)
    .errors(&[InvalidCursor, InvalidParameter, BufferUnavailable]),
    route("POST", "/api/v1/admin/dead-letters/{id}/retry", Admin, || {
        web::to(sync::admin::retry_dead_letter)
    })
    .errors(&[InvalidId, NotFound, Undecodable, BufferFull, BufferUnavailable]),
    route("DELETE", "/api/v1/admin/dead-letters/{id}", Admin, || {
        web::to(sync::admin::discard_dead_letter)
    })
    .errors(&[InvalidId, NotFound, BufferUnavailable]),
];

/// Whether the path is that of a call of users, services or administrators, and not one of the operators' own.
pub(crate) fn is_call(path: &str) -> bool {
    path.starts_with("/api/") || path.starts_with("/v2/")
}

/// Registers every route, those without a pattern first: they are compared, not matched, and win over patterns that would
/// match them. Each resource answers `OPTIONS`, and any other method with 405; any other path is 404.
pub fn configure(cfg: &mut ServiceConfig) {
    let mut seen = HashSet::new();
    let paths = ROUTES.iter().map(|route| route.path);
    let mut paths: Vec<_> = paths.filter(|path| seen.insert(*path)).collect();
    paths.sort_by_key(|path| path.contains('{'));
    for path in paths {
        let of_path: Vec<_> = ROUTES.iter().filter(|route| route.path == path).collect();
        let allow = allowed(&of_path);
        let mut resource = web::resource(path);
        for route in of_path {
            resource = resource.route(registered(route));
        }
        let options = allow.clone();
        let options = web::method(Method::OPTIONS).to(move || {
            let answer = HttpResponse::NoContent()
                .insert_header((ALLOW, options.clone()))
                .finish();
            std::future::ready(answer)
        });
        let refuse = move || std::future::ready(method_not_allowed(&allow));
        cfg.service(resource.route(options).default_service(web::to(refuse)));
    }
    cfg.default_service(web::to(|| std::future::ready(not_found())));
}

fn registered(info: &'static RouteInfo) -> Route {
    let route = (info.handler)();
    let route = match info.method {
        "GET" => route.guard(Any(Get()).or(Head())),
        "POST" => route.method(Method::POST),
        "PUT" => route.method(Method::PUT),
        _ => route.method(Method::DELETE),
    };
    route.wrap(from_fn(move |req, next| guard(info, req, next)))
}

fn allowed(routes: &[&RouteInfo]) -> String {
    let mut methods: Vec<&str> = routes.iter().map(|route| route.method).collect();
    if methods.contains(&"GET") {
        methods.insert(1, "HEAD");
    }
    methods.push("OPTIONS");
    methods.join(", ")
}

fn method_not_allowed(allow: &str) -> Result<HttpResponse, ApiError> {
    Err(ApiError::new(ErrorCode::MethodNotAllowed).header(ALLOW, allow))
}

fn not_found() -> Result<HttpResponse, ApiError> {
    Err(ApiError::new(ErrorCode::NotFound))
}
