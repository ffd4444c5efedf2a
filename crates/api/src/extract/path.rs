//! Ids in paths.

use crate::error::{ApiError, ErrorCode};
use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};
use std::future::{Ready, ready};
use uuid::Uuid;

/// The first parameter of the path (`{id}`, or a name of its own): a UUID with hyphens.
#[derive(Debug, Clone, Copy)]
pub struct PathId<T>(pub T);

impl<T: From<Uuid>> FromRequest for PathId<T> {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        let given = req.match_info().iter().next().map(|(_, text)| text);
        let given = given.filter(|text| text.len() == 36);
        let id = given.and_then(|text| Uuid::try_parse(text).ok());
        ready(
            id.map(|id| Self(T::from(id)))
                .ok_or_else(|| ApiError::new(ErrorCode::InvalidId)),
        )
    }
}
