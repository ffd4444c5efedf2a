//! The outermost layer. Whatever happens inside, the answer leaves with a request id, security headers and, if it is an
//! error, a problem body; the causes of an error are logged here, once. The request's [`deadline`] begins here.

use crate::error::{ApiError, Class, ErrorCode};
use crate::middleware::client::{ClientAddress, RequestId};
use crate::middleware::telemetry::{self, Answered, InFlight};
use crate::state::{ApiState, HttpSettings};
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _, web};
use gravity_domain::auth::Principal;
use gravity_domain::deadline::{self, Deadline};
use std::time::Instant;
use tracing::Instrument as _;

/// The type of a problem body.
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

const SECURITY: [(HeaderName, HeaderValue); 3] = [
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    ),
];

/// Two years: what browsers ask for.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=63072000; includeSubDomains");

/// See the module.
///
/// # Errors
/// Never one of its own; layers inside answer instead of failing.
pub async fn boundary(
    req: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let (since, _in_flight) = (Instant::now(), InFlight::start());
    let request_id = RequestId::of(req.headers());
    let state = req.app_data::<web::Data<ApiState>>();
    let limit = state.map_or(HttpSettings::default().deadline, |state| state.http.deadline);
    if let Some(state) = state {
        let client = ClientAddress::of(&req, &state.http.trusted_proxies);
        req.extensions_mut().insert(client);
    }
    req.extensions_mut().insert(request_id.clone());
    let secure = crate::serve::is_secure(req.request());
    let span = telemetry::span(&req, &request_id.0);
    let answering = next.call(req).instrument(span.clone());
    let response = deadline::within(Deadline::of(since, limit), answering).await?;

    let mut response = span.in_scope(|| problem(response.map_into_boxed_body(), &request_id.0));
    harden(response.headers_mut(), secure);
    if let Ok(id) = HeaderValue::from_str(&request_id.0) {
        response
            .headers_mut()
            .insert(HeaderName::from_static("x-request-id"), id);
    }
    let principal = response.request().extensions().get::<Principal>().copied();
    let route = response.request().match_pattern();
    let answered = Answered {
        method: response.request().method(),
        route: route.as_deref(),
        status: response.status(),
        request_id: &request_id.0,
        principal,
        since,
    };
    span.in_scope(|| telemetry::answered(&span, &answered));
    Ok(response)
}

/// Gives an error its body, and logs its causes.
fn problem(response: ServiceResponse<BoxBody>, request_id: &str) -> ServiceResponse<BoxBody> {
    let error = response
        .response()
        .error()
        .and_then(|error| error.as_error::<ApiError>());
    let body = match error {
        Some(error) => {
            log_causes(error);
            error.problem(request_id)
        }
        None if is_foreign_error(&response) => {
            ApiError::new(ErrorCode::of_status(response.status())).problem(request_id)
        }
        None => return response,
    };
    let bytes = serde_json::to_vec(&body).unwrap_or_default();
    let status = body.status;
    response.map_body(|head, _| {
        for stale in [
            header::CONTENT_LENGTH,
            header::CONTENT_ENCODING,
            header::TRANSFER_ENCODING,
        ] {
            head.headers_mut().remove(stale);
        }
        head.headers_mut().insert(header::CONTENT_TYPE, PROBLEM);
        debug_assert_eq!(head.status.as_u16(), status);
        BoxBody::new(bytes)
    })
}

/// An error that the framework answered with a text or nothing.
fn is_foreign_error(response: &ServiceResponse<BoxBody>) -> bool {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    (status.is_client_error() || status.is_server_error())
        && kind.is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"))
}

fn log_causes(error: &ApiError) {
    let (code, causes) = (error.code().as_str(), error.chain());
    match (error.code().class(), causes) {
        (Class::Internal, causes) => tracing::error!(code, causes, "a request failed"),
        (Class::Unavailable, Some(causes)) => tracing::warn!(code, causes, "a request could not be served"),
        (_, Some(causes)) => tracing::debug!(code, causes, "a request was refused"),
        (_, None) => {}
    }
}

/// Adds the security headers that the handler has not set itself.
fn harden(headers: &mut HeaderMap, secure: bool) {
    for (name, value) in SECURITY {
        if !headers.contains_key(&name) {
            headers.insert(name, value);
        }
    }
    if secure {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HSTS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::middleware::from_fn;
    use actix_web::{App, HttpResponse, test};
    use std::time::Duration;

    #[actix_web::test]
    async fn a_request_is_answered_under_its_deadline_and_none_outlives_it() {
        let left = || async {
            let request = deadline::current().expect("a request has a deadline");
            let left = request.for_answer().saturating_duration_since(Instant::now());
            HttpResponse::Ok().body(left.as_millis().to_string())
        };
        let app = App::new().wrap(from_fn(boundary)).route("/", web::get().to(left));
        let app = test::init_service(app).await;
        let body = test::call_and_read_body(&app, test::TestRequest::get().to_request()).await;
        let left: u64 = std::str::from_utf8(&body).unwrap().parse().unwrap();
        let limit = HttpSettings::default().deadline;
        assert!(left > 0 && Duration::from_millis(left) <= limit, "{left} ms");
        assert_eq!(deadline::current(), None);
    }
}
