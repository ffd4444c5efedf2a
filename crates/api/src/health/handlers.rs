//! `/live`, `/ready`, `/health` and `/metrics`.

use super::dto::{HealthReport, HealthStatus, HealthView, LiveView, VERSION};
use crate::state::ApiState;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use actix_web::{HttpResponse, web};

/// 200 while the process runs.
#[utoipa::path(get, path = "/live", tag = "operators", operation_id = "live",
    responses((status = 200, description = "The process runs.", body = LiveView)))]
pub(crate) async fn live(state: web::Data<ApiState>) -> HttpResponse {
    let report = state.health.report();
    let view = LiveView {
        status: HealthStatus::Healthy,
        timestamp: report.now,
        version: VERSION,
        uptime_seconds: report.uptime_seconds,
    };
    HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, "no-store"))
        .json(view)
}

/// 200 while it can serve, degraded included. For load balancers and container health checks.
#[utoipa::path(get, path = "/ready", tag = "operators", operation_id = "ready", responses(
    (status = 200, description = "It can serve, perhaps degraded.", body = HealthView),
    (status = 503, description = "Starting, stopping, or no write can be accepted.", body = HealthView,
        headers(("Retry-After" = u64, description = "Seconds to wait.")))))]
pub(crate) async fn ready(state: web::Data<ApiState>) -> HttpResponse {
    let report = state.health.report();
    answer(&report, report.status() != HealthStatus::Unavailable)
}

/// 200 when Postgres and Redis are both up. For people and monitors.
#[utoipa::path(get, path = "/health", tag = "operators", operation_id = "health", responses(
    (status = 200, description = "All is well.", body = HealthView),
    (status = 503, description = "A store is down.", body = HealthView,
        headers(("Retry-After" = u64, description = "Seconds to wait.")))))]
pub(crate) async fn health(state: web::Data<ApiState>) -> HttpResponse {
    let report = state.health.report();
    answer(&report, report.status() == HealthStatus::Healthy)
}

/// The metrics, as Prometheus text.
#[utoipa::path(get, path = "/metrics", tag = "operators", operation_id = "metrics",
    responses((status = 200, description = "Prometheus text.", body = String, content_type = "text/plain")))]
pub(crate) async fn metrics(state: web::Data<ApiState>) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"))
        .body((state.metrics)())
}

fn answer(report: &HealthReport, good: bool) -> HttpResponse {
    let mut response = HttpResponse::build(if good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    });
    response.insert_header((CACHE_CONTROL, "no-store"));
    if !good {
        response.insert_header((RETRY_AFTER, "1"));
    }
    response.json(HealthView::from(report))
}
