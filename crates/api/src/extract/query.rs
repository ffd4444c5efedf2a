//! The query string: every parameter known, given once (or as often as it likes, where it may be repeated), and in bounds.

use crate::error::{ApiError, ErrorCode};
use crate::extract::json::shown;
use actix_web::HttpRequest;
use gravity_domain::page::{PageKey, PageLimit};

/// Parameters in the order given. The route table says which are known; the guard of the route checks it.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses `raw` (without `?`), allowing the names in `known`; one that ends in `*` there may be repeated.
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
            let Some(repeats) = repeats(known, &name) else {
                return Err(ApiError::detailed(
                    ErrorCode::UnknownParameter,
                    format!("There is no query parameter `{}` here.", shown(&name)),
                ));
            };
            if !repeats && all.iter().any(|(seen, _)| *seen == name) {
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

    /// The values of a parameter that may be repeated, in the order given.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// A parameter that is a whole number.
    ///
    /// # Errors
    /// `invalid_parameter`.
    pub fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let number = text
            .parse()
            .ok()
            .filter(|number| digits && i64::try_from(*number).is_ok());
        match number {
            Some(number) => Ok(Some(number)),
            None => Err(invalid(format!("`{name}` must be a whole number."))),
        }
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

/// `None`: not known. `Some(true)`: may be repeated.
fn repeats(known: &[&str], name: &str) -> Option<bool> {
    known.iter().find_map(|known| match known.strip_suffix('*') {
        Some(known) => (known == name).then_some(true),
        None => (*known == name).then_some(false),
    })
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
    fn only_what_may_be_repeated_is_taken_more_than_once() {
        let query = Query::parse("source=a&limit=1&source=b%26c", &["source*", "limit"]).unwrap();
        assert_eq!(query.all("source").collect::<Vec<_>>(), ["a", "b&c"]);
        let code = |raw: &str| Query::parse(raw, &["source*", "limit"]).unwrap_err().code();
        assert_eq!(code("source*=1"), ErrorCode::UnknownParameter);
        assert_eq!(code("limit=1&source=a&limit=1"), ErrorCode::InvalidParameter);
    }

    #[test]
    fn a_number_has_digits_only_and_fits_where_it_is_kept() {
        let number = |raw: &str| Query::parse(raw, &["since"]).unwrap().number("since");
        assert_eq!(number("").unwrap(), None);
        assert_eq!(number("since=0").unwrap(), Some(0));
        assert_eq!(
            number("since=9223372036854775807").unwrap(),
            Some(i64::MAX.unsigned_abs())
        );
        for raw in [
            "since=",
            "since=-1",
            "since=%2B1",
            "since=1.0",
            "since=9223372036854775808",
        ] {
            assert_eq!(
                number(raw).unwrap_err().code(),
                ErrorCode::InvalidParameter,
                "{raw}"
            );
        }
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
