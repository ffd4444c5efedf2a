//! The calls on notifications: what one wants to be told of when one is not there, and where. They are no operations: while
//! Postgres is away they answer 503.

use super::bodies::{PreferencesBody, SubscribeBody, UnsubscribeBody};
use super::dto::{PreferencesView, SubscriptionView, VapidKeyView};
use crate::error::{ApiError, ErrorCode};
use crate::extract::{CurrentUser, UnkeyedJsonBody};
use crate::respond::{self, Data};
use crate::state::ApiState;
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use gravity_domain::sync::Freshness;
use gravity_usecase::chat::NewSubscription;

type Answer = Result<HttpResponse, ApiError>;

/// What one wants to be told of, and how.
#[utoipa::path(get, path = "/api/chat/notifications/preferences", tag = "chat", operation_id = "getPreferences",
    responses((status = 200, description = "The preferences.", body = Data<PreferencesView>),
        (status = 304, description = "They are as `If-None-Match` says.")))]
pub(crate) async fn preferences(
    CurrentUser(who): CurrentUser,
    req: HttpRequest,
    state: web::Data<ApiState>,
) -> Answer {
    let preferences = state.chat.get_preferences.run(who.user_id).await?;
    let view = Data {
        data: PreferencesView::from(preferences),
    };
    respond::snapshot(&req, who.user_id, Freshness::Current, &view)
}

/// Sets the preferences given.
#[utoipa::path(put, path = "/api/chat/notifications/preferences", tag = "chat", operation_id = "setPreferences",
    request_body = PreferencesBody,
    responses((status = 200, description = "All preferences as they are now.", body = Data<PreferencesView>)))]
pub(crate) async fn set_preferences(
    CurrentUser(who): CurrentUser,
    body: UnkeyedJsonBody<PreferencesBody>,
    state: web::Data<ApiState>,
) -> Answer {
    let now = state.chat.get_preferences.run(who.user_id).await?;
    let wanted = body.0.over(now);
    state.chat.set_preferences.run(who.user_id, wanted).await?;
    Ok(respond::data(StatusCode::OK, PreferencesView::from(wanted)))
}

/// Has a browser told by Web Push.
#[utoipa::path(post, path = "/api/chat/notifications/subscriptions", tag = "chat", operation_id = "subscribe",
    request_body = SubscribeBody,
    responses((status = 201, description = "It will be told.", body = Data<SubscriptionView<'_>>),
        (status = 200, description = "It was there; it has these keys now.", body = Data<SubscriptionView<'_>>)))]
pub(crate) async fn subscribe(
    CurrentUser(who): CurrentUser,
    body: UnkeyedJsonBody<SubscribeBody>,
    state: web::Data<ApiState>,
) -> Answer {
    let wanted = NewSubscription {
        endpoint: &body.0.endpoint,
        p256dh: &body.0.keys.p256dh,
        auth: &body.0.keys.auth,
    };
    let subscribed = state.chat.subscribe.run(who.user_id, wanted).await?;
    let status = if subscribed.is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(respond::data(
        status,
        SubscriptionView {
            endpoint: &subscribed.subscription.endpoint,
        },
    ))
}

/// Has a browser told no more.
#[utoipa::path(delete, path = "/api/chat/notifications/subscriptions", tag = "chat", operation_id = "unsubscribe",
    request_body = UnsubscribeBody,
    responses((status = 204, description = "It is told no more.")))]
pub(crate) async fn unsubscribe(
    CurrentUser(who): CurrentUser,
    body: UnkeyedJsonBody<UnsubscribeBody>,
    state: web::Data<ApiState>,
) -> Answer {
    state.chat.unsubscribe.run(who.user_id, &body.0.endpoint).await?;
    Ok(respond::personal(StatusCode::NO_CONTENT).finish())
}

/// The key that browsers subscribe with; 404 while Web Push is off.
#[utoipa::path(get, path = "/api/chat/notifications/vapid-key", tag = "chat", operation_id = "getVapidKey",
    responses((status = 200, description = "The key.", body = Data<VapidKeyView<'_>>),
        (status = 304, description = "It is as `If-None-Match` says.")))]
pub(crate) async fn vapid_key(
    CurrentUser(who): CurrentUser,
    req: HttpRequest,
    state: web::Data<ApiState>,
) -> Answer {
    let Some(public_key) = state.chat.vapid_public_key.as_deref() else {
        return Err(ApiError::detailed(ErrorCode::NotFound, "Web Push is not set up."));
    };
    let view = Data {
        data: VapidKeyView { public_key },
    };
    respond::snapshot(&req, who.user_id, Freshness::Current, &view)
}
