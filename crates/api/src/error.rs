//! Errors as clients see them: THE table of codes, and problem+json (RFC 9457).
//!
//! Every failure leaves the API as an [`ApiError`]: a [`ErrorCode`] from the table, a public detail, perhaps field errors,
//! and privately the chain of causes. The table alone gives class, status and title. An `ApiError` travels inside
//! the response; the boundary middleware turns it into a body (it knows the request id) and logs the chain, once.

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use gravity_domain::auth::{AuthError, RateDecision, seconds_up};
use gravity_domain::error::{FieldError, StoreError};
use gravity_domain::sync::{BufferError, ReadError, Refusal, WriteError};
use serde::Serialize;
use std::borrow::Cow;
use std::fmt;
use utoipa::ToSchema;

/// What kind of failure a code is: decides headers and how it is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The request is not as it must be; sending it again changes nothing.
    Request,
    /// Who asks is not known, or may not. 401 carries `WWW-Authenticate`.
    Access,
    /// The request is fine, what it meets is not.
    Conflict,
    /// Too many requests. Carries `Retry-After`.
    Limit,
    /// It may work later. Carries `Retry-After`.
    Unavailable,
    /// Our fault.
    Internal,
}

macro_rules! table {
    ($($variant:ident $code:literal $class:ident $status:ident $title:literal;)*) => {
        /// A stable code, as in docs/ERRORS.md.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $(#[doc = $title] $variant,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in `code`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// What kind of failure it is.
            pub fn class(self) -> Class {
                match self { $(Self::$variant => Class::$class,)* }
            }

            /// The HTTP status.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            /// The title: the same for every occurrence.
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

table! {
    BadRequest            "bad_request"            Request     BAD_REQUEST            "The request cannot be understood.";
    MalformedJson         "malformed_json"         Request     BAD_REQUEST            "The body is not JSON.";
    InvalidBody           "invalid_body"           Request     BAD_REQUEST            "The body is not a JSON object, or was cut off.";
    UnknownField          "unknown_field"          Request     BAD_REQUEST            "The body has a field that this call does not know.";
    DuplicateField        "duplicate_field"        Request     BAD_REQUEST            "The body has a field twice.";
    EmptyUpdate           "empty_update"           Request     BAD_REQUEST            "The update sets no field.";
    InvalidCursor         "invalid_cursor"         Request     BAD_REQUEST            "The cursor is not one this API gave out.";
    InvalidParameter      "invalid_parameter"      Request     BAD_REQUEST            "A query parameter has a value it cannot have.";
    UnknownParameter      "unknown_parameter"      Request     BAD_REQUEST            "There is a query parameter that this call does not know.";
    InvalidId             "invalid_id"             Request     BAD_REQUEST            "The id in the path is not a UUID.";
    InvalidHeader         "invalid_header"         Request     BAD_REQUEST            "A request header has a value it cannot have.";
    Oneself               "oneself"                Request     BAD_REQUEST            "This cannot be done with oneself.";
    Unauthenticated       "unauthenticated"        Access      UNAUTHORIZED           "A valid access token is required.";
    InvalidCredentials    "invalid_credentials"    Access      UNAUTHORIZED           "The username or the password is wrong.";
    Forbidden             "forbidden"              Access      FORBIDDEN              "This is not allowed for you.";
    NotFound              "not_found"              Request     NOT_FOUND              "There is no such thing.";
    MethodNotAllowed      "method_not_allowed"     Request     METHOD_NOT_ALLOWED     "The resource does not have this method.";
    NotAcceptable         "not_acceptable"         Request     NOT_ACCEPTABLE         "None of the encodings asked for can be given.";
    RequestTimeout        "request_timeout"        Request     REQUEST_TIMEOUT        "The request took too long to arrive.";
    Blocked               "blocked"                Access      FORBIDDEN              "One of the two blocks the other.";
    MessageIdReused       "message_id_reused"      Conflict    CONFLICT               "The message id was used for another message.";
    UsernameTaken         "username_taken"         Conflict    CONFLICT               "The username is taken.";
    Undecodable           "undecodable"            Conflict    CONFLICT               "The dead letter cannot be decoded, so it cannot be retried.";
    CannotCalculate       "cannot_calculate"       Conflict    GONE                   "What has changed since then cannot be told any more.";
    WriteRefused          "write_refused"          Conflict    CONFLICT               "The database refused the write.";
    VersionMismatch       "version_mismatch"       Conflict    PRECONDITION_FAILED    "The resource is at another version.";
    PayloadTooLarge       "payload_too_large"      Request     PAYLOAD_TOO_LARGE      "The body is too large.";
    UnsupportedMediaType  "unsupported_media_type" Request     UNSUPPORTED_MEDIA_TYPE "The body must be application/json, not encoded.";
    ValidationFailed      "validation_failed"      Request     UNPROCESSABLE_ENTITY   "Fields of the body are not as they must be.";
    IdempotencyKeyReused  "idempotency_key_reused" Conflict    UNPROCESSABLE_ENTITY   "The idempotency key was used for another request.";
    RateLimited           "rate_limited"           Limit       TOO_MANY_REQUESTS      "There were too many requests.";
    AddressBlocked        "address_blocked"        Limit       TOO_MANY_REQUESTS      "Too many refused requests came from this address.";
    InternalError         "internal_error"         Internal    INTERNAL_SERVER_ERROR  "Something went wrong here.";
    DatabaseUnavailable   "database_unavailable"   Unavailable SERVICE_UNAVAILABLE    "The database cannot answer now.";
    BufferFull            "buffer_full"            Unavailable SERVICE_UNAVAILABLE    "The write buffer is full.";
    BufferUnavailable     "buffer_unavailable"     Unavailable SERVICE_UNAVAILABLE    "The write buffer cannot answer now.";
    SessionsUnavailable   "sessions_unavailable"   Unavailable SERVICE_UNAVAILABLE    "The session store cannot answer now.";
    KeysUnavailable       "keys_unavailable"       Unavailable SERVICE_UNAVAILABLE    "The identity provider's keys cannot be had now.";
    Busy                  "busy"                   Unavailable SERVICE_UNAVAILABLE    "The server is too busy for this now.";
}

impl ErrorCode {
    /// The code for an error that the framework made without us.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Self::MethodNotAllowed,
            StatusCode::NOT_ACCEPTABLE => Self::NotAcceptable,
            StatusCode::REQUEST_TIMEOUT => Self::RequestTimeout,
            StatusCode::PAYLOAD_TOO_LARGE => Self::PayloadTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::UnsupportedMediaType,
            status if status.is_client_error() => Self::BadRequest,
            _ => Self::InternalError,
        }
    }

    /// `Retry-After` in seconds, where the failure does not know better.
    fn default_retry_after(self) -> Option<u64> {
        match (self, self.class()) {
            (Self::BufferFull, _) => Some(5),
            (_, Class::Unavailable) => Some(2),
            (_, Class::Limit) => Some(60),
            _ => None,
        }
    }
}

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

#[derive(Debug)]
struct Inner {
    code: ErrorCode,
    detail: Option<Cow<'static, str>>,
    errors: Vec<FieldError>,
    headers: Vec<(HeaderName, HeaderValue)>,
    retry_after: Option<u64>,
    source: Option<Source>,
}

/// A failure on its way to the client. `Display` is public text; its chain of causes is not.
#[derive(Debug)]
pub struct ApiError(Box<Inner>);

impl ApiError {
    /// The error of this code.
    pub fn new(code: ErrorCode) -> Self {
        Self(Box::new(Inner {
            code,
            detail: None,
            errors: Vec::new(),
            headers: Vec::new(),
            retry_after: code.default_retry_after(),
            source: None,
        }))
    }

    /// The error of this code, with what is particular to this occurrence. `detail` is public.
    pub fn detailed(code: ErrorCode, detail: impl Into<Cow<'static, str>>) -> Self {
        let mut error = Self::new(code);
        error.0.detail = Some(detail.into());
        error
    }

    /// 422 with all that is wrong with the body.
    pub fn validation(errors: Vec<FieldError>) -> Self {
        let mut error = Self::new(ErrorCode::ValidationFailed);
        error.0.errors = errors;
        error
    }

    /// Adds a cause: logged at the boundary, never shown.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Says when to come again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.0.retry_after = Some(seconds.max(1));
        self
    }

    /// Adds a header to the answer; one that is no header value is left out.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.headers.push((name, value));
        }
        self
    }

    /// Its code.
    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    /// The causes, outermost first, for the log.
    pub(crate) fn chain(&self) -> Option<String> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> =
            self.0.source.as_deref().map(|source| source as _);
        let mut chain = String::new();
        while let Some(error) = cause {
            if !chain.is_empty() {
                chain.push_str(": ");
            }
            chain.push_str(&error.to_string());
            cause = error.source();
        }
        (!chain.is_empty()).then_some(chain)
    }

    /// The body for this request.
    pub(crate) fn problem(&self, request_id: &str) -> Problem {
        let code = self.0.code;
        Problem {
            kind: format!("urn:gravity:error:{}", code.as_str()),
            title: code.title(),
            status: code.status().as_u16(),
            detail: self.detail().to_owned(),
            code: code.as_str(),
            request_id: request_id.to_owned(),
            errors: self.0.errors.iter().map(FieldProblem::from).collect(),
        }
    }

    fn detail(&self) -> &str {
        self.0.detail.as_deref().unwrap_or(self.0.code.title())
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code.as_str(), self.detail())
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.0.code.status()
    }

    fn error_response(&self) -> HttpResponse {
        use actix_web::http::header::{CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE};
        let mut response = HttpResponse::build(self.status_code());
        response.insert_header((CACHE_CONTROL, "no-store"));
        if self.status_code() == StatusCode::UNAUTHORIZED {
            response.insert_header((WWW_AUTHENTICATE, "Bearer"));
        }
        if let Some(seconds) = self.0.retry_after {
            response.insert_header((RETRY_AFTER, seconds.to_string()));
        }
        for (name, value) in &self.0.headers {
            response.insert_header((name.clone(), value.clone()));
        }
        response.finish()
    }
}

/// An error, as RFC 9457 has it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// `urn:gravity:error:` and the code.
    #[serde(rename = "type")]
    #[schema(example = "urn:gravity:error:not_found")]
    pub kind: String,
    /// The same for every occurrence of the code.
    #[schema(example = "There is no such thing.")]
    pub title: &'static str,
    /// The HTTP status.
    #[schema(example = 404)]
    pub status: u16,
    /// What is particular to this occurrence.
    #[schema(example = "There is no such thing.")]
    pub detail: String,
    /// Stable; listed in docs/ERRORS.md.
    #[schema(example = "not_found")]
    pub code: &'static str,
    /// As in `X-Request-Id`.
    #[schema(example = "0199a3c2-7c1e-7d5e-8f00-3b1f0c2d4e5f")]
    pub request_id: String,
    /// What is wrong with which field; only with `validation_failed`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub errors: Vec<FieldProblem>,
}

/// What is wrong with a field.
#[derive(Debug, Serialize, ToSchema)]
pub struct FieldProblem {
    /// The field's JSON name.
    #[schema(example = "title")]
    pub field: String,
    /// `required`, `too_short`, `too_long`, `invalid_character`, `invalid_format`, `invalid_value` or `invalid_type`.
    #[schema(example = "required")]
    pub code: &'static str,
    /// For people.
    #[schema(example = "must have at least 1 character")]
    pub message: String,
}

impl From<&FieldError> for FieldProblem {
    fn from(error: &FieldError) -> Self {
        Self {
            field: error.field.to_string(),
            code: error.code,
            message: error.message.clone(),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let code = if error.is_transient() {
            ErrorCode::DatabaseUnavailable
        } else {
            ErrorCode::InternalError
        };
        Self::new(code).caused_by(error)
    }
}

impl From<BufferError> for ApiError {
    fn from(error: BufferError) -> Self {
        let code = match error {
            BufferError::Full => ErrorCode::BufferFull,
            BufferError::Unavailable(_) => ErrorCode::BufferUnavailable,
            BufferError::TooLarge => ErrorCode::PayloadTooLarge,
            BufferError::NotFound => return Self::new(ErrorCode::NotFound),
            BufferError::Undecodable => return Self::new(ErrorCode::Undecodable),
        };
        Self::new(code).caused_by(error)
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotFound => Self::new(ErrorCode::NotFound),
            ReadError::Unknown => Self::new(ErrorCode::DatabaseUnavailable),
            ReadError::Store(error) => error.into(),
            ReadError::Buffer(error) => error.into(),
        }
    }
}

impl From<WriteError> for ApiError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::NotFound => Self::new(ErrorCode::NotFound),
            WriteError::VersionMismatch { current } => Self::detailed(
                ErrorCode::VersionMismatch,
                format!("The resource is at version {current}."),
            ),
            WriteError::KeyReused => Self::new(ErrorCode::IdempotencyKeyReused),
            WriteError::NotAllowed(Refusal::Blocked) => Self::new(ErrorCode::Blocked),
            WriteError::NotAllowed(Refusal::MessageIdReused) => Self::new(ErrorCode::MessageIdReused),
            WriteError::NotCommittable => Self::detailed(
                ErrorCode::DatabaseUnavailable,
                "The write cannot be committed now, and the request asks not to buffer it.",
            ),
            WriteError::Unknown => Self::new(ErrorCode::DatabaseUnavailable),
            WriteError::Refused(error) if error.is_transient() => error.into(),
            WriteError::Refused(error) => Self::new(ErrorCode::WriteRefused).caused_by(error),
            WriteError::Buffer(error) => error.into(),
        }
    }
}

/// `RateLimit` and `RateLimit-Policy`: what is left of a quota, as name and value.
pub(crate) fn rate_limit_headers(rate: &RateDecision) -> [(HeaderName, String); 2] {
    let (name, reset) = (rate.quota.name, rate.retry_after_seconds());
    let policy = format!(
        "\"{name}\";q={};w={}",
        rate.quota.limit,
        seconds_up(rate.quota.window)
    );
    [
        (
            HeaderName::from_static("ratelimit"),
            format!("\"{name}\";r={};t={reset}", rate.remaining),
        ),
        (HeaderName::from_static("ratelimit-policy"), policy),
    ]
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Unauthenticated { .. } => Self::new(ErrorCode::Unauthenticated).caused_by(error),
            AuthError::InvalidCredentials => Self::new(ErrorCode::InvalidCredentials),
            AuthError::UsernameTaken => Self::new(ErrorCode::UsernameTaken),
            AuthError::RateLimited(rate) => rate_limit_headers(&rate).into_iter().fold(
                Self::new(ErrorCode::RateLimited).retry_after(rate.retry_after_seconds()),
                |error, (name, value)| error.header(name, &value),
            ),
            AuthError::Forbidden { .. } => Self::new(ErrorCode::Forbidden).caused_by(error),
            AuthError::SessionNotFound => Self::new(ErrorCode::NotFound),
            AuthError::Unavailable {
                what, retry_after, ..
            } => {
                let code = match what {
                    "accounts" => ErrorCode::DatabaseUnavailable,
                    "sessions" => ErrorCode::SessionsUnavailable,
                    "keys" => ErrorCode::KeysUnavailable,
                    _ => ErrorCode::Busy,
                };
                Self::new(code)
                    .retry_after(seconds_up(retry_after))
                    .caused_by(error)
            }
            AuthError::Internal(_) => Self::new(ErrorCode::InternalError).caused_by(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};

    #[test]
    fn codes_are_unique_and_snake_case_and_titles_are_sentences() {
        let mut seen = std::collections::HashSet::new();
        for code in ErrorCode::ALL {
            assert!(seen.insert(code.as_str()), "{} is there twice", code.as_str());
            assert!(code.as_str().chars().all(|c| c.is_ascii_lowercase() || c == '_'));
            assert!(code.title().ends_with('.'));
        }
    }

    #[test]
    fn every_code_is_listed_in_the_documentation_with_its_status() {
        let text = include_str!("../../../docs/ERRORS.md");
        for code in ErrorCode::ALL {
            let row = format!("| `{}` | {} |", code.as_str(), code.status().as_u16());
            assert!(text.contains(&row), "docs/ERRORS.md lacks {row}");
        }
        let rows = text
            .lines()
            .filter(|line| line.starts_with("| `") && line.matches('|').count() == 4);
        assert_eq!(rows.count(), ErrorCode::ALL.len());
    }

    #[test]
    fn unavailable_and_limited_answers_say_when_to_come_again_and_401_how_to_authenticate() {
        for code in ErrorCode::ALL {
            let response = ApiError::new(*code).error_response();
            let retries = matches!(code.class(), Class::Unavailable | Class::Limit);
            assert_eq!(response.headers().contains_key(RETRY_AFTER), retries, "{code:?}");
            let challenges = response.headers().contains_key(WWW_AUTHENTICATE);
            assert_eq!(challenges, code.status() == StatusCode::UNAUTHORIZED, "{code:?}");
        }
    }

    #[test]
    fn causes_go_to_the_log_and_never_to_the_client() {
        let source: Box<dyn std::error::Error + Send + Sync> = "password=hunter2".into();
        let error = ApiError::from(StoreError::Unavailable {
            reason: "connect",
            source: Some(source),
        });
        let shown = serde_json::to_string(&error.problem("r")).unwrap() + &error.to_string();
        assert!(!shown.contains("hunter2") && !shown.contains("connect"));
        assert_eq!(
            error.chain().unwrap(),
            "the store is unavailable: connect: password=hunter2"
        );
    }
}
