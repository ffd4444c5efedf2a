//! Registration, login and sessions. Answers with tokens are never stored by anybody on the way.

use super::dto::{LoginBody, LogoutBody, RefreshBody, RegisterBody, RegisteredView, SessionView, TokensView};
use crate::error::{ApiError, rate_limit_headers};
use crate::extract::{CurrentUser, JsonBody, OptionalJsonBody, PathId};
use crate::middleware::ClientAddress;
use crate::respond::{self, Data, List, Meta};
use crate::state::ApiState;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, LOCATION, USER_AGENT};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use gravity_domain::auth::{AuthError, RateDecision};
use gravity_domain::error::FieldError;
use gravity_domain::id::SessionId;
use gravity_domain::sync::Freshness;
use gravity_usecase::auth::{LoginRequest, RegisterRequest};

type Answer = Result<HttpResponse, ApiError>;

/// Makes an account.
#[utoipa::path(post, path = "/api/v1/auth/register", tag = "auth", operation_id = "register",
    request_body = RegisterBody,
    responses((status = 201, description = "Made.", body = Data<RegisteredView<'_>>)))]
pub(crate) async fn register(
    body: JsonBody<RegisterBody>,
    ClientAddress(address): ClientAddress,
    state: web::Data<ApiState>,
) -> Answer {
    let RegisterBody {
        username,
        password,
        name,
        email,
    } = body.value;
    let request = RegisterRequest {
        username,
        password,
        name,
        email,
        address,
    };
    let registered = state.auth.register.run(request).await?;
    let mut response = unstored(StatusCode::CREATED, Some(&registered.rate));
    response.insert_header((LOCATION, "/api/v1/profile"));
    Ok(response.json(Data {
        data: RegisteredView::of(&registered),
    }))
}

/// Opens a session.
#[utoipa::path(post, path = "/api/v1/auth/login", tag = "auth", operation_id = "login",
    request_body = LoginBody,
    responses((status = 200, description = "A pair of tokens.", body = Data<TokensView<'_>>)))]
pub(crate) async fn login(
    body: JsonBody<LoginBody>,
    ClientAddress(address): ClientAddress,
    req: HttpRequest,
    state: web::Data<ApiState>,
) -> Answer {
    let request = LoginRequest {
        username: body.value.username.expose(),
        password: body.value.password.expose(),
        address,
        client: req
            .headers()
            .get(USER_AGENT)
            .and_then(|value| value.to_str().ok()),
    };
    let login = state.auth.login.run(request).await?;
    let mut response = unstored(StatusCode::OK, Some(&login.rate));
    Ok(response.json(Data {
        data: TokensView::of(&login.tokens),
    }))
}

/// Exchanges a refresh token for a new pair.
#[utoipa::path(post, path = "/api/v1/auth/refresh", tag = "auth", operation_id = "refresh",
    request_body = RefreshBody,
    responses((status = 200, description = "A new pair; the old refresh token is spent.", body = Data<TokensView<'_>>)))]
pub(crate) async fn refresh(body: JsonBody<RefreshBody>, state: web::Data<ApiState>) -> Answer {
    let pair = state.auth.refresh.run(body.value.refresh_token.expose()).await?;
    Ok(unstored(StatusCode::OK, None).json(Data {
        data: TokensView::of(&pair),
    }))
}

/// Ends a session: that of the refresh token, else that of the access token. A refresh token that is not one of the
/// caller's own ends nothing; the refusal is the same whether or not it is another's.
#[utoipa::path(post, path = "/api/v1/auth/logout", tag = "auth", operation_id = "logout",
    request_body = Option<LogoutBody>,
    responses((status = 204, description = "Ended, or it had ended before.")))]
pub(crate) async fn logout(
    CurrentUser(who): CurrentUser,
    body: OptionalJsonBody<LogoutBody>,
    state: web::Data<ApiState>,
) -> Answer {
    let token = body.value.refresh_token.as_ref().map(|token| token.expose());
    state
        .auth
        .logout
        .run(&who, token)
        .await
        .map_err(|error| match error {
            // Who asks is known: it is the field that is wrong, and a new access token would not help.
            AuthError::Unauthenticated { .. } => not_own_token().caused_by(error),
            other => other.into(),
        })?;
    Ok(unstored(StatusCode::NO_CONTENT, None).finish())
}

fn not_own_token() -> ApiError {
    let message = "is not one of your refresh tokens";
    ApiError::validation(vec![FieldError::new("refreshToken", "invalid_value", message)])
}

/// One's sessions, latest first. All of them: there is no paging.
#[utoipa::path(get, path = "/api/v1/auth/sessions", tag = "auth", operation_id = "listSessions",
    responses((status = 200, description = "The sessions.", body = List<SessionView<'_>>),
        (status = 304, description = "They are as `If-None-Match` says.")))]
pub(crate) async fn list_sessions(
    CurrentUser(who): CurrentUser,
    req: HttpRequest,
    state: web::Data<ApiState>,
) -> Answer {
    let sessions = state.auth.list_sessions.run(who.user_id).await?;
    let page = List {
        data: sessions
            .iter()
            .map(|session| SessionView::of(session, who.session_id))
            .collect(),
        meta: Meta::next(None),
    };
    respond::list(&req, who.user_id, Freshness::Current, &page)
}

/// Ends one of one's sessions.
#[utoipa::path(delete, path = "/api/v1/auth/sessions/{id}", tag = "auth", operation_id = "deleteSession",
    params(("id" = uuid::Uuid, Path, description = "The session.")),
    responses((status = 204, description = "Ended.")))]
pub(crate) async fn delete_session(
    CurrentUser(who): CurrentUser,
    PathId(id): PathId<SessionId>,
    state: web::Data<ApiState>,
) -> Answer {
    state.auth.delete_session.run(who.user_id, id).await?;
    Ok(unstored(StatusCode::NO_CONTENT, None).finish())
}

fn unstored(status: StatusCode, rate: Option<&RateDecision>) -> HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    response.insert_header((CACHE_CONTROL, "no-store"));
    for (name, value) in rate.into_iter().flat_map(rate_limit_headers) {
        response.insert_header((name, value));
    }
    response
}
