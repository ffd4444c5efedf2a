//! Keeps addresses out that were refused too often, and counts refusals: 401, 403, 429, and 400 from the login calls. The
//! operators' calls outside `/api` and `/v2` are not shielded: a probe must get its answer. What counts is the path that is routed, which
//! has its percent-encoding undone: `/%61pi/` is `/api/`.

use crate::error::{ApiError, ErrorCode};
use crate::middleware::client::ClientAddress;
use crate::routes::is_call;
use crate::state::ApiState;
use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _, web};
use gravity_domain::auth::seconds_up;

/// See the module.
///
/// # Errors
/// Those of the layers inside.
pub async fn shield<B: MessageBody + 'static>(
    req: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let client = req.extensions().get::<ClientAddress>().copied();
    let state = req.app_data::<web::Data<ApiState>>().cloned();
    let routed = req.match_info().as_str();
    let (is_api, is_login) = (is_call(routed), is_login_call(routed));
    let (Some(ClientAddress(address)), Some(state), true) = (client, state, is_api) else {
        return next.call(req).await.map(ServiceResponse::map_into_left_body);
    };
    if let Some(left) = state.auth.blocker.blocked(address) {
        let refusal = ApiError::new(ErrorCode::AddressBlocked).retry_after(seconds_up(left));
        return Ok(req.error_response(refusal).map_into_right_body());
    }
    let response = next.call(req).await?;
    if is_refusal(response.status(), is_login) {
        state.auth.blocker.refused(address);
    }
    Ok(response.map_into_left_body())
}

fn is_login_call(path: &str) -> bool {
    matches!(
        path,
        "/api/v1/auth/login" | "/api/v1/auth/register" | "/api/v1/auth/refresh"
    )
}

fn is_refusal(status: StatusCode, is_login: bool) -> bool {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::BAD_REQUEST => is_login,
        _ => false,
    }
}
