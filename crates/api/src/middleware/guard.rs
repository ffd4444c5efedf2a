//! Around each route: who may call it and with which query parameters, as the route table says. The token comes first, so
//! that nobody without one learns anything but that; the body is read only after both.

use crate::error::{ApiError, ErrorCode};
use crate::extract::Query;
use crate::routes::{Auth, RouteInfo};
use crate::state::ApiState;
use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{AUTHORIZATION, HeaderMap, WWW_AUTHENTICATE};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _, web};
use gravity_domain::auth::{AuthError, Role};
use gravity_usecase::auth::Admitted;

/// See the module.
///
/// # Errors
/// Those of the handler; refusals are answers.
pub async fn guard(
    route: &'static RouteInfo,
    req: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    match admit(route, &req).await {
        Ok(()) => next.call(req).await,
        Err(refusal) => Ok(req.error_response(refusal)),
    }
}

async fn admit(route: &RouteInfo, req: &ServiceRequest) -> Result<(), ApiError> {
    if route.auth != Auth::Public {
        let admitted = authenticate(req).await?;
        let principal = admitted.principal;
        // Before the role is judged: the access log names who was refused.
        req.extensions_mut().insert(principal);
        req.extensions_mut().insert(admitted);
        if !may_call(principal.role, route.auth) {
            return Err(ApiError::new(ErrorCode::Forbidden));
        }
    }
    match route.query {
        Some(known) => Query::parse(req.query_string(), known).map(drop),
        None => Ok(()),
    }
}

async fn authenticate(req: &ServiceRequest) -> Result<Admitted, ApiError> {
    let state = req.app_data::<web::Data<ApiState>>().cloned();
    let state =
        state.ok_or_else(|| ApiError::new(ErrorCode::InternalError).caused_by("the app has no state"))?;
    let Some(token) = bearer(req.headers())? else {
        return Err(ApiError::new(ErrorCode::Unauthenticated));
    };
    state
        .auth
        .authenticate
        .admit(token)
        .await
        .map_err(|error| match error {
            AuthError::Unauthenticated { .. } => invalid_token().caused_by(error),
            other => other.into(),
        })
}

/// The bearer token; `None` when there is no `Authorization`.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let mut given = headers.get_all(AUTHORIZATION);
    let Some(first) = given.next() else {
        return Ok(None);
    };
    let text = first.to_str().map_err(|_| invalid_token())?.trim();
    let token = match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => return Err(invalid_token()),
    };
    if token.is_empty() || given.next().is_some() {
        return Err(invalid_token());
    }
    Ok(Some(token))
}

fn invalid_token() -> ApiError {
    ApiError::new(ErrorCode::Unauthenticated).header(WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"")
}

fn may_call(role: Role, auth: Auth) -> bool {
    match auth {
        Auth::Public | Auth::User => true,
        Auth::Admin => role == Role::Admin,
        Auth::Service => matches!(role, Role::Service | Role::Admin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    fn token(lines: &[&str]) -> Result<Option<String>, ErrorCode> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(AUTHORIZATION, HeaderValue::from_str(line).unwrap());
        }
        bearer(&headers)
            .map(|token| token.map(str::to_owned))
            .map_err(|error| error.code())
    }

    #[test]
    fn the_word_bearer_is_case_insensitive_and_anything_else_is_no_token() {
        assert_eq!(token(&[]), Ok(None));
        assert_eq!(token(&["bEaReR  abc "]), Ok(Some("abc".to_owned())));
        for line in ["abc", "Bearer", "Bearer ", "Basic abc", ""] {
            assert_eq!(token(&[line]), Err(ErrorCode::Unauthenticated), "{line}");
        }
        assert_eq!(token(&["Bearer a", "Bearer b"]), Err(ErrorCode::Unauthenticated));
    }
}
