//! The query string: every parameter known, given once, and in bounds.

use crate::error::{ApiError, ErrorCode};
use crate::extract::json::shown;
use actix_web::HttpRequest;
use gravity_domain::page::{PageKey, PageLimit};

/// Parameters in the order given. The route table says which are known; the guard of the route checks it.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses `raw` (without `?`), allowing the names in `known`.
    ///
    /// # Errors
    /// `unknown_parameter`; `invalid_parameter` for one given twice, or that is not UTF-8.
    pub fn parse(raw: &str, known: &[&str]) -> Result<Self, ApiError> {
        let mut all: Vec<(String, String)> = Vec::new();
        for part in raw.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (Some(name), Some(value)) = (decode(name), decode(value)) else {
                return Err(invalid("The query string is not percent-encoded UTF-8."));
            };
            if !known.contains(&name.as_str()) {
                return Err(ApiError::detailed(
                    ErrorCode::UnknownParameter,
                    format!("There is no query parameter `{}` here.", shown(&name)),
                ));
            }
            if all.iter().any(|(seen, _)| *seen == name) {
                return Err(invalid(format!("The query parameter `{name}` is there twice.")));
            }
            all.push((name, value));
        }
        Ok(Self(all))
    }

    /// The parameters of `req`, which its route's guard has checked.
    ///
    /// # Errors
    /// As [`Query::parse`].
    pub fn of(req: &HttpRequest, known: &[&str]) -> Result<Self, ApiError> {
        Self::parse(req.query_string(), known)
    }

    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// `limit`: 1..=100, 20 when not given.
    ///
    /// # Errors
    /// `invalid_parameter`.
    pub fn limit(&self) -> Result<PageLimit, ApiError> {
        let Some(text) = self.get("limit") else {
            return Ok(PageLimit::default());
        };
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let limit = text.parse().ok().filter(|_| digits).and_then(PageLimit::new);
        limit.ok_or_else(|| invalid("`limit` must be a number from 1 to 100."))
    }

    /// `cursor`, as an earlier answer gave it.
    ///
    /// # Errors
    /// `invalid_cursor`.
    pub fn cursor(&self) -> Result<Option<PageKey>, ApiError> {
        let decoded = self.get("cursor").map(PageKey::decode).transpose();
        decoded.map_err(|_| ApiError::new(ErrorCode::InvalidCursor))
    }
}

/// 400 `invalid_parameter`.
pub(crate) fn invalid(detail: impl Into<std::borrow::Cow<'static, str>>) -> ApiError {
    ApiError::detailed(ErrorCode::InvalidParameter, detail)
}

/// Percent-decodes a part of a query string; `+` is a space. `None` when it is not UTF-8 or not well encoded.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => hex(rest.next()?)? << 4 | hex(rest.next()?)?,
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code(raw: &str) -> ErrorCode {
        Query::parse(raw, &["limit", "cursor"]).unwrap_err().code()
    }

    #[test]
    fn unknown_doubled_and_badly_encoded_parameters_are_refused() {
        assert_eq!(code("Limit=1"), ErrorCode::UnknownParameter);
        assert_eq!(code("limit=1&limit=1"), ErrorCode::InvalidParameter);
        assert_eq!(code("limit=%ff"), ErrorCode::InvalidParameter);
        assert_eq!(code("limit=%4"), ErrorCode::InvalidParameter);
        assert_eq!(code("limit=1&%6cimit=2"), ErrorCode::InvalidParameter);
    }

    #[test]
    fn a_limit_is_a_number_from_1_to_100() {
        let limit = |raw: &str| Query::parse(raw, &["limit"]).unwrap().limit().map(PageLimit::get);
        assert_eq!(limit("").unwrap(), 20);
        assert_eq!(limit("limit=100").unwrap(), 100);
        for raw in [
            "limit=0",
            "limit=101",
            "limit=-1",
            "limit=%2B5",
            "limit=",
            "limit=5.0",
            "limit=99999999999999999999",
        ] {
            assert_eq!(
                limit(raw).unwrap_err().code(),
                ErrorCode::InvalidParameter,
                "{raw}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_query_string_is_read_or_refused_without_a_panic(raw in ".{0,80}") {
            let _ = Query::parse(&raw, &["limit", "cursor"]).map(|query| (query.limit().is_ok(), query.cursor().is_ok()));
        }
    }
}
