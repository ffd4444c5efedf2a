//! A request's span, metrics and line in the access log. Labels come from bounded sets: the route's pattern, never the
//! path, and never the query string.

use actix_web::dev::ServiceRequest;
use actix_web::http::header::HeaderMap;
use actix_web::http::{Method, StatusCode};
use gravity_domain::auth::Principal;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use opentelemetry::propagation::Extractor;
use opentelemetry::trace::TraceContextExt as _;
use std::time::Instant;
use tracing::{Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The route of a request that no route matches.
const UNMATCHED: &str = "unmatched";

/// Says what the metrics of this crate mean. To be called once, after the recorder is installed.
pub fn describe_metrics() {
    crate::chat::socket::describe_metrics();
    describe_counter!(
        "gravity_http_requests_total",
        "Requests answered, by method, route and status."
    );
    describe_histogram!(
        "gravity_http_request_seconds",
        metrics::Unit::Seconds,
        "Time to the head of the answer."
    );
    describe_gauge!(
        "gravity_http_requests_in_flight",
        "Requests that wait for their answer."
    );
}

/// Counts a request as in flight for as long as it lives: also when the client goes away.
pub(crate) struct InFlight(());

impl InFlight {
    pub(crate) fn start() -> Self {
        gauge!("gravity_http_requests_in_flight").increment(1.0);
        Self(())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        gauge!("gravity_http_requests_in_flight").decrement(1.0);
    }
}

struct Incoming<'a>(&'a HeaderMap);

impl Extractor for Incoming<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}

/// What machines ask every few seconds: logged at `debug`, so that the access log stays one of people.
const PROBES: [&str; 4] = ["/live", "/ready", "/health", "/metrics"];

/// The span of a request, a child of the caller's when `traceparent` says so.
pub(crate) fn span(req: &ServiceRequest, request_id: &str) -> Span {
    let span = tracing::info_span!(
        "http.request",
        otel.kind = "server",
        otel.status_code = field::Empty,
        http.request.method = method(req.method()),
        http.route = field::Empty,
        http.response.status_code = field::Empty,
        request_id,
        user = field::Empty,
    );
    if req.headers().contains_key("traceparent") {
        let parent = opentelemetry::global::get_text_map_propagator(|p| p.extract(&Incoming(req.headers())));
        // Without an exporter there is no layer to take the parent, and nothing to do about it.
        let _ = span.set_parent(parent);
    }
    span
}

/// What is known of a request once it is answered.
pub(crate) struct Answered<'a> {
    pub(crate) method: &'a Method,
    pub(crate) route: Option<&'a str>,
    pub(crate) status: StatusCode,
    pub(crate) request_id: &'a str,
    pub(crate) principal: Option<Principal>,
    pub(crate) since: Instant,
}

/// Fills the span, counts, and writes the line of the access log.
pub(crate) fn answered(span: &Span, answered: &Answered<'_>) {
    let route = answered.route.unwrap_or(UNMATCHED).to_owned();
    let (method, status) = (method(answered.method), answered.status.as_u16());
    let seconds = answered.since.elapsed().as_secs_f64();
    // The layer takes `otel.name` only when a span starts, and the route is known only now.
    span.context().span().update_name(format!("{method} {route}"));
    span.record("http.route", &route);
    span.record("http.response.status_code", i64::from(status));
    if answered.status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    let user = answered.principal.map(|principal| principal.user_id.to_string());
    if let Some(user) = &user {
        span.record("user", user);
    }
    histogram!("gravity_http_request_seconds", "method" => method, "route" => route.clone()).record(seconds);
    counter!("gravity_http_requests_total", "method" => method, "route" => route.clone(), "status" => status.to_string())
        .increment(1);
    let latency_ms = (seconds * 1e6).round() / 1e3;
    let request_id = answered.request_id;
    // Without the span as parent: a reader would get every field twice.
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(target: "access", parent: None, request_id, user, method, route, status, latency_ms)
        };
    }
    if PROBES.contains(&route.as_str()) {
        line!(debug);
    } else {
        line!(info);
    }
}

/// The method's name, from a bounded set.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}
