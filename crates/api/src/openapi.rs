//! The OpenAPI 3.1 document: what succeeds is said at the handlers; how calls fail, who may make them and the headers that
//! all share come from the route table and the error table, so that they cannot drift.

use crate::error::{ErrorCode, Problem};
use crate::routes::{Auth, RouteInfo, is_call, routes};
use serde_json::json;
use std::collections::BTreeMap;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Header, Ref, RefOr, Required, Response, ResponseBuilder};
use utoipa::{Modify, OpenApi};

const SCHEME: &str = "bearer";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Gravity",
        description = "Tasks, profiles, streams and chat behind a durable write buffer: an acknowledged write is never lost, never \
                       applied twice, and never goes backwards. Writes answer 200, 201 or 204 when they are in Postgres, \
                       and 202 with `Operation-Id` when they are on disk and on their way there.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    tags(
        (name = "auth", description = "Accounts, login and sessions"),
        (name = "profile", description = "How a user appears"),
        (name = "tasks", description = "Tasks"),
        (name = "stream", description = "One list of what needs attention"),
        (name = "ingest", description = "Feeding streams, for services"),
        (name = "chat", description = "Conversations of two, notifications, and who is there"),
        (name = "operations", description = "What became of a write"),
        (name = "operators", description = "Probes, metrics and the write buffer"),
    ),
    paths(
        crate::health::handlers::live,
        crate::health::handlers::ready,
        crate::health::handlers::health,
        crate::health::handlers::metrics,
        crate::auth::handlers::register,
        crate::auth::handlers::login,
        crate::auth::handlers::refresh,
        crate::auth::handlers::logout,
        crate::auth::handlers::list_sessions,
        crate::auth::handlers::delete_session,
        crate::profile::handlers::get,
        crate::profile::handlers::update,
        crate::task::handlers::list,
        crate::task::handlers::create,
        crate::task::handlers::get,
        crate::task::handlers::update,
        crate::task::handlers::delete,
        crate::stream::handlers::list,
        crate::stream::handlers::changes,
        crate::stream::handlers::act,
        crate::stream::handlers::get,
        crate::stream::handlers::messages,
        crate::stream::ingest::ingest,
        crate::stream::ingest::remove,
        crate::chat::handlers::list,
        crate::chat::handlers::unread_count,
        crate::chat::handlers::open,
        crate::chat::handlers::messages,
        crate::chat::handlers::send,
        crate::chat::handlers::read,
        crate::chat::handlers::message,
        crate::chat::people::blocks,
        crate::chat::people::block,
        crate::chat::people::block_status,
        crate::chat::people::unblock,
        crate::chat::people::presence,
        crate::chat::people::issue_ticket,
        crate::chat::socket::connect,
        crate::chat::notifications::preferences,
        crate::chat::notifications::set_preferences,
        crate::chat::notifications::subscribe,
        crate::chat::notifications::unsubscribe,
        crate::chat::notifications::vapid_key,
        crate::sync::handlers::get,
        crate::sync::admin::buffer,
        crate::sync::admin::list_dead_letters,
        crate::sync::admin::retry_dead_letter,
        crate::sync::admin::discard_dead_letter,
    ),
    components(schemas(Problem)),
    modifiers(&FromTables),
)]
struct Document;

/// The document, as pretty JSON with a newline at its end.
pub fn to_json() -> String {
    let mut text = Document::openapi().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

struct FromTables;

impl Modify for FromTables {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .description(Some(
                "An access token of `/api/v1/auth/login`, or of a trusted identity provider.",
            ))
            .build();
        let components = document.components.get_or_insert_with(Default::default);
        components.add_security_scheme(SCHEME, SecurityScheme::Http(scheme));
        for route in routes() {
            let Some(item) = document.paths.paths.get_mut(route.path) else {
                continue;
            };
            let operation = match route.method {
                "GET" => item.get.as_mut(),
                "POST" => item.post.as_mut(),
                "PUT" => item.put.as_mut(),
                _ => item.delete.as_mut(),
            };
            if let Some(operation) = operation {
                complete(operation, route);
            }
        }
    }
}

fn complete(operation: &mut Operation, route: &RouteInfo) {
    if route.auth != Auth::Public {
        let scopes: [&str; 0] = [];
        operation.security = Some(vec![SecurityRequirement::new(SCHEME, scopes)]);
    }
    let parameters = operation.parameters.get_or_insert_default();
    parameters.extend(request_headers(route).into_iter().map(RefOr::T));
    if parameters.is_empty() {
        operation.parameters = None;
    }
    for (status, codes) in failures(route) {
        let response = failure(status, &codes);
        operation
            .responses
            .responses
            .entry(status.to_string())
            .or_insert(RefOr::T(response));
    }
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response {
            for (name, what) in response_headers(route, status) {
                response
                    .headers
                    .entry(name.to_owned())
                    .or_insert_with(|| RefOr::T(header(what)));
            }
        }
    }
}

/// Every way the route can fail, by status.
fn failures(route: &RouteInfo) -> BTreeMap<u16, Vec<ErrorCode>> {
    use ErrorCode as E;
    let mut codes: Vec<ErrorCode> = route.errors.to_vec();
    if is_call(route.path) {
        codes.extend([E::UnknownParameter, E::AddressBlocked, E::InternalError]);
    }
    if route.auth != Auth::Public {
        codes.extend([E::Unauthenticated, E::KeysUnavailable]);
    }
    if matches!(route.auth, Auth::Admin | Auth::Service) {
        codes.push(E::Forbidden);
    }
    if route.body {
        codes.extend([
            E::MalformedJson,
            E::InvalidBody,
            E::UnknownField,
            E::DuplicateField,
        ]);
        codes.extend([
            E::RequestTimeout,
            E::PayloadTooLarge,
            E::UnsupportedMediaType,
            E::ValidationFailed,
        ]);
    }
    if route.body && route.method == "PUT" {
        codes.push(E::EmptyUpdate);
    }
    let mut by_status = BTreeMap::<u16, Vec<ErrorCode>>::new();
    for code in codes {
        by_status.entry(code.status().as_u16()).or_default().push(code);
    }
    by_status
}

fn failure(status: u16, codes: &[ErrorCode]) -> Response {
    let names: Vec<_> = codes.iter().map(|code| format!("`{}`", code.as_str())).collect();
    let first = codes.first().copied().unwrap_or(ErrorCode::InternalError);
    let mut example = json!({
        "type": format!("urn:gravity:error:{}", first.as_str()),
        "title": first.title(),
        "status": status,
        "detail": first.title(),
        "code": first.as_str(),
        "requestId": "0199a3c2-7c1e-7d5e-8f00-3b1f0c2d4e5f",
    });
    if first == ErrorCode::ValidationFailed {
        example["errors"] = json!([{ "field": "title", "code": "required", "message": "is required" }]);
    }
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .example(Some(example))
        .build();
    ResponseBuilder::new()
        .description(format!("{}.", names.join(", ")))
        .content("application/problem+json", content)
        .build()
}

fn is_entity_write(route: &RouteInfo) -> bool {
    matches!(route.method, "POST" | "PUT" | "DELETE")
        && (route.path.starts_with("/api/v1/tasks")
            || matches!(route.path, "/api/v1/profile" | "/v2/stream/actions"))
}

/// A write of chat: it leaves nothing that `If-Match` could ask for.
fn is_chat_write(route: &RouteInfo) -> bool {
    match route.method {
        "POST" => is_send(route) || route.path.ends_with("/read") || route.path == "/api/chat/blocks",
        "DELETE" => route.path.starts_with("/api/chat/blocks/"),
        _ => false,
    }
}

fn is_send(route: &RouteInfo) -> bool {
    route.method == "POST" && route.path == "/api/chat/conversations/{id}/messages"
}

fn is_ingest(route: &RouteInfo) -> bool {
    route.path.starts_with("/v2/ingest/")
}

fn request_headers(route: &RouteInfo) -> Vec<Parameter> {
    let mut names = Vec::new();
    if is_entity_write(route) || is_chat_write(route) {
        names.push((
            "Idempotency-Key",
            "1 to 255 visible ASCII characters. The same key and request give the first answer again.",
        ));
        names.push(("Gravity-Durability", "`committed`: answer 503 rather than 202."));
        if is_entity_write(route) && route.method != "POST" {
            names.push((
                "If-Match",
                "Entity tags, or `*`: 412 when the resource is at none of them.",
            ));
        }
    }
    if has_tag(route) {
        names.push((
            "If-None-Match",
            "Entity tags, or `*`: 304 when the answer is one of them.",
        ));
    }
    let parameter = |(name, what): (&str, &str)| {
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(what))
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
            .build()
    };
    names.into_iter().map(parameter).collect()
}

/// Whether it is a read that answers with an `ETag`.
fn has_tag(route: &RouteInfo) -> bool {
    const TAGGED: [&str; 17] = [
        "/api/v1/profile",
        "/api/v1/tasks",
        "/api/v1/tasks/{id}",
        "/api/v1/auth/sessions",
        "/api/v1/admin/dead-letters",
        "/v2/stream",
        "/v2/stream/{itemId}",
        "/v2/stream/{itemId}/messages",
        "/api/chat/conversations",
        "/api/chat/conversations/unread-count",
        "/api/chat/conversations/with/{username}",
        "/api/chat/conversations/{id}/messages",
        "/api/chat/messages/{id}",
        "/api/chat/blocks",
        "/api/chat/blocks/status/{username}",
        "/api/chat/notifications/preferences",
        "/api/chat/notifications/vapid-key",
    ];
    route.method == "GET" && TAGGED.contains(&route.path)
}

fn response_headers(route: &RouteInfo, status: &str) -> Vec<(&'static str, &'static str)> {
    let mut names = vec![("X-Request-Id", "The caller's, if it is sane; else a new one.")];
    let succeeds = status.starts_with('2');
    if succeeds && (is_entity_write(route) || is_chat_write(route)) {
        names.push(("Operation-Id", "For `/api/v1/operations/{id}`."));
        names.push((
            "Idempotency-Replayed",
            "`true` when this is the first answer again.",
        ));
        if (is_entity_write(route) && route.method != "DELETE") || is_send(route) {
            names.push(("ETag", "The version it left."));
        }
    }
    if succeeds && route.path.ends_with("/retry") {
        names.push(("Operation-Id", "For `/api/v1/operations/{id}`."));
    }
    if matches!(status, "200" | "304") && has_tag(route) {
        names.push((
            "ETag",
            "For `If-None-Match`; of a single resource also for `If-Match`.",
        ));
        let is_stream = route.path.starts_with("/v2/stream");
        if is_stream {
            names.push(("Age", "How many seconds old a `stale` answer is."));
        }
        let is_chat =
            route.path.starts_with("/api/chat/") && !route.path.starts_with("/api/chat/notifications/");
        if is_stream || is_chat || route.path.starts_with("/api/v1/tasks") || route.path == "/api/v1/profile"
        {
            names.push((
                "Gravity-Consistency",
                "`stale`: the last known value. `pending`: with one's writes on their way.",
            ));
        }
    }
    let locates = matches!(route.path, "/api/v1/tasks" | "/api/v1/auth/register") && route.method == "POST";
    if succeeds && (locates || is_send(route)) {
        names.push(("Location", "Where it is to be found."));
    }
    if succeeds && is_ingest(route) {
        names.push((
            "ETag",
            "The version of the stream, when all is of one user: for `If-None-Match` and `minVersion`.",
        ));
    }
    let limited = is_ingest(route)
        || is_send(route)
        || matches!(
            route.path,
            "/api/v1/auth/login" | "/api/v1/auth/register" | "/api/chat/conversations/with/{username}"
        );
    if limited && (succeeds || status == "429") {
        names.push(("RateLimit", "What is left of the quota."));
        names.push(("RateLimit-Policy", "The quota."));
    }
    match status {
        "401" => names.push((
            "WWW-Authenticate",
            "`Bearer`, with `error=\"invalid_token\"` when a token was given.",
        )),
        "429" | "503" => names.push(("Retry-After", "Seconds to wait.")),
        _ => {}
    }
    names
}

fn header(what: &str) -> Header {
    HeaderBuilder::new()
        .schema(Some(ObjectBuilder::new().schema_type(Type::String).build()))
        .description(Some(what))
        .build()
}
