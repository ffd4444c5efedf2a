//! Who a request is from, as the type of an argument. The guard of the route has checked the token before; these only
//! hand over what it found, and refuse where there was no guard.

use crate::error::{ApiError, ErrorCode};
use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpMessage as _, HttpRequest};
use gravity_domain::auth::{Principal, Role};
use gravity_domain::clock::Timestamp;
use gravity_usecase::auth::Admitted;
use std::future::{Ready, ready};

fn principal(req: &HttpRequest) -> Result<Principal, ApiError> {
    let found = req.extensions().get::<Principal>().copied();
    found.ok_or_else(|| ApiError::new(ErrorCode::Unauthenticated))
}

fn with_role(req: &HttpRequest, allowed: &[Role]) -> Result<Principal, ApiError> {
    let found = principal(req)?;
    if allowed.contains(&found.role) {
        Ok(found)
    } else {
        Err(ApiError::new(ErrorCode::Forbidden))
    }
}

/// Anybody with a valid token.
#[derive(Debug, Clone, Copy)]
pub struct CurrentUser(pub Principal);

/// Anybody with a valid token, and when it ends.
#[derive(Debug, Clone, Copy)]
pub struct Bearer {
    /// Who.
    pub principal: Principal,
    /// `exp`.
    pub expires_at: Timestamp,
}

/// An operator.
#[derive(Debug, Clone, Copy)]
pub struct Admin(pub Principal);

/// A machine, or an operator.
#[derive(Debug, Clone, Copy)]
pub struct Service(pub Principal);

impl FromRequest for CurrentUser {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;
    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(principal(req).map(Self))
    }
}

impl FromRequest for Bearer {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;
    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        let found = req.extensions().get::<Admitted>().copied();
        let found = found.map(|admitted| Self {
            principal: admitted.principal,
            expires_at: admitted.expires_at,
        });
        ready(found.ok_or_else(|| ApiError::new(ErrorCode::Unauthenticated)))
    }
}

impl FromRequest for Admin {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;
    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(with_role(req, &[Role::Admin]).map(Self))
    }
}

impl FromRequest for Service {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;
    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(with_role(req, &[Role::Service, Role::Admin]).map(Self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;
    use gravity_domain::id::UserId;

    async fn outcome<T: FromRequest<Error = ApiError>>(role: Option<Role>) -> Result<(), ErrorCode> {
        let req = TestRequest::default().to_http_request();
        if let Some(role) = role {
            let user_id = UserId::random();
            req.extensions_mut().insert(Principal {
                user_id,
                role,
                session_id: None,
            });
        }
        T::extract(&req).await.map(drop).map_err(|error| error.code())
    }

    #[actix_web::test]
    async fn each_type_lets_in_only_its_roles_and_nobody_without_a_guard() {
        assert_eq!(
            outcome::<CurrentUser>(None).await,
            Err(ErrorCode::Unauthenticated)
        );
        assert_eq!(outcome::<Admin>(None).await, Err(ErrorCode::Unauthenticated));
        assert_eq!(outcome::<CurrentUser>(Some(Role::User)).await, Ok(()));
        assert_eq!(
            outcome::<Admin>(Some(Role::User)).await,
            Err(ErrorCode::Forbidden)
        );
        assert_eq!(
            outcome::<Admin>(Some(Role::Service)).await,
            Err(ErrorCode::Forbidden)
        );
        assert_eq!(outcome::<Admin>(Some(Role::Admin)).await, Ok(()));
        assert_eq!(
            outcome::<Service>(Some(Role::User)).await,
            Err(ErrorCode::Forbidden)
        );
        assert_eq!(outcome::<Service>(Some(Role::Service)).await, Ok(()));
    }
}
