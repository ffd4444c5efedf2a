//! CORS: exact origins, no credentials. Without origins there is none, and browsers keep other sites' scripts out.

use actix_cors::Cors;
use actix_web::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, IF_MATCH, IF_NONE_MATCH};
use actix_web::middleware::Condition;

const EXPOSED: [&str; 10] = [
    "Age",
    "ETag",
    "Location",
    "Operation-Id",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
    "X-Request-Id",
    "Gravity-Consistency",
    "Idempotency-Replayed",
];

/// The CORS layer for these origins (`https://app.example`, as browsers send them).
pub fn cors(origins: &[String]) -> Condition<Cors> {
    let allowed = origins.to_vec();
    let layer = Cors::default()
        .allowed_origin_fn(move |origin, _| allowed.iter().any(|known| known.as_bytes() == origin.as_bytes()))
        .allowed_methods(["GET", "HEAD", "POST", "PUT", "DELETE"])
        .allowed_headers([
            AUTHORIZATION,
            CONTENT_TYPE,
            IF_MATCH,
            IF_NONE_MATCH,
            HeaderName::from_static("idempotency-key"),
            HeaderName::from_static("gravity-durability"),
            HeaderName::from_static("x-request-id"),
            HeaderName::from_static("traceparent"),
            HeaderName::from_static("tracestate"),
        ])
        .expose_headers(EXPOSED)
        .max_age(3600);
    Condition::new(!origins.is_empty(), layer)
}
