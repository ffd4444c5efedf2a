//! Calls to a server, and answers with what every test asks of them.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Map, Value};
use uuid::Uuid;

/// No answer takes this long; a test that waits longer has found a hang.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server's address and the connections to it.
#[derive(Debug)]
pub struct Target {
    base: String,
    client: Client,
}

impl Target {
    /// The server on this loopback port.
    ///
    /// # Panics
    /// When no client can be made.
    #[must_use]
    pub fn on_port(port: u16) -> Self {
        let client = Client::builder()
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build();
        match client {
            Ok(client) => Self {
                base: format!("http://127.0.0.1:{port}"),
                client,
            },
            Err(error) => panic!("no HTTP client: {error}"),
        }
    }

    /// `http://127.0.0.1:port`.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A call of this path (with its query).
    pub fn call(&self, method: Method, path: &str) -> Call {
        Call {
            shown: format!("{method} {path}"),
            builder: self.client.request(method, format!("{}{path}", self.base)),
        }
    }
}

/// A call being put together; awaiting it sends it.
#[derive(Debug)]
pub struct Call {
    shown: String,
    builder: RequestBuilder,
}

impl Call {
    /// Adds a header; the same name twice is sent twice.
    ///
    /// # Panics
    /// When it is no header.
    #[must_use]
    pub fn header(self, name: &str, value: &str) -> Self {
        self.header_bytes(name, value.as_bytes())
    }

    /// Adds a header that need not be text.
    ///
    /// # Panics
    /// When it is no header.
    #[must_use]
    pub fn header_bytes(mut self, name: &str, value: &[u8]) -> Self {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value)) else {
            panic!("{name} cannot be sent");
        };
        self.builder = self.builder.header(name, value);
        self
    }

    /// `Idempotency-Key`.
    #[must_use]
    pub fn key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    /// A JSON body.
    #[must_use]
    pub fn json(mut self, body: &Value) -> Self {
        self.builder = self.builder.json(body);
        self
    }

    /// Any body, as `application/json`.
    #[must_use]
    pub fn raw(self, body: impl Into<Vec<u8>>) -> Self {
        self.body("application/json", body)
    }

    /// Any body.
    #[must_use]
    pub fn body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.builder = self
            .builder
            .header("content-type", content_type)
            .body(body.into());
        self
    }

    /// Sends it.
    ///
    /// # Errors
    /// There was no answer: nobody listens, or the connection broke.
    pub async fn attempt(self) -> Result<Answer, reqwest::Error> {
        let since = Instant::now();
        let response = self.builder.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await?.to_vec();
        Ok(Answer {
            call: self.shown,
            status,
            headers,
            body,
            took: since.elapsed(),
        })
    }
}

impl IntoFuture for Call {
    type Output = Answer;
    type IntoFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let shown = self.shown.clone();
            match self.attempt().await {
                Ok(answer) => answer,
                Err(error) => panic!("{shown} got no answer: {error:?}"),
            }
        })
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What was called, for messages.
    pub call: String,
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, as it came.
    pub body: Vec<u8>,
    /// From sending to the last byte.
    pub took: Duration,
}

impl Answer {
    /// A header, when it is there once or more and text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Every value of a header, joined as a list.
    #[must_use]
    pub fn list(&self, name: &str) -> String {
        let values = self
            .headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok());
        values.collect::<Vec<_>>().join(", ").to_lowercase()
    }

    /// A header that must be there.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    #[must_use]
    pub fn must_header(&self, name: &str) -> String {
        match self.header(name) {
            Some(value) => value.to_owned(),
            None => panic!("no {name} in {self:#?}"),
        }
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body.
    ///
    /// # Panics
    /// When it is not JSON.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!(
                "{} answered {} with no JSON ({error}): {}",
                self.call,
                self.status,
                self.text()
            ),
        }
    }

    /// `data` of the body.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    #[must_use]
    pub fn data(&self) -> Value {
        match self.json() {
            Value::Object(mut body) if body.contains_key("data") => body.remove("data").unwrap_or_default(),
            other => panic!("{} answered {} without data: {other}", self.call, self.status),
        }
    }

    /// A text field of `data`.
    ///
    /// # Panics
    /// When it is not there or no text.
    #[track_caller]
    #[must_use]
    pub fn text_of(&self, field: &str) -> String {
        match self.data().get(field) {
            Some(Value::String(text)) => text.clone(),
            other => panic!("{} answered {field} = {other:?}", self.call),
        }
    }

    /// `id` of `data`.
    ///
    /// # Panics
    /// When it is not there.
    #[track_caller]
    #[must_use]
    pub fn id(&self) -> String {
        self.text_of("id")
    }

    /// The answer, if it has this status.
    ///
    /// # Panics
    /// When it has another.
    #[track_caller]
    pub fn must_be(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}: {}", self.call, self.text());
        self
    }

    /// The problem body of this status and code, every part of it checked.
    ///
    /// # Panics
    /// When it is anything else.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Problem {
        let body = self.text();
        assert_eq!(self.status, status, "{}: {body}", self.call);
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{}: {body}",
            self.call
        );
        let Value::Object(mut fields) = self.json() else {
            panic!("{}: {body}", self.call);
        };
        assert_eq!(fields["code"], code, "{}: {body}", self.call);
        assert_eq!(fields["type"], format!("urn:gravity:error:{code}"), "{body}");
        assert_eq!(fields["status"], status, "{body}");
        assert_eq!(fields["requestId"], self.must_header("x-request-id"), "{body}");
        let mut text = |name: &str| match fields.remove(name) {
            Some(Value::String(text)) if !text.is_empty() => text,
            other => panic!("{name} is {other:?} in {body}"),
        };
        let (title, detail) = (text("title"), text("detail"));
        let errors = match fields.remove("errors") {
            Some(Value::Array(errors)) => errors.iter().map(field_problem).collect(),
            None => Vec::new(),
            other => panic!("errors is {other:?} in {body}"),
        };
        assert_eq!(fields.len(), 4, "something more is in {body}");
        Problem {
            title,
            detail,
            errors,
        }
    }

    /// Status and body, ids and times replaced by `[id]` and `[time]`, to be compared as a whole.
    #[must_use]
    pub fn shape(&self) -> Value {
        let mut shape = Map::new();
        shape.insert("status".to_owned(), self.status.into());
        if !self.body.is_empty() {
            shape.insert("body".to_owned(), redacted(self.json()));
        }
        Value::Object(shape)
    }
}

/// What a problem says to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The same for every problem of the code.
    pub title: String,
    /// Of this one.
    pub detail: String,
    /// Field and code of each field error.
    pub errors: Vec<(String, String)>,
}

#[track_caller]
fn field_problem(error: &Value) -> (String, String) {
    let text = |name: &str| match error.get(name) {
        Some(Value::String(text)) if !text.is_empty() => text.clone(),
        _ => panic!("no {name} in {error}"),
    };
    text("message");
    (text("field"), text("code"))
}

/// Replaces ids and times wherever they are.
#[must_use]
pub fn redacted(value: Value) -> Value {
    match value {
        Value::String(text) if text.len() == 36 && Uuid::try_parse(&text).is_ok() => "[id]".into(),
        Value::String(text) if is_time(&text) => "[time]".into(),
        Value::Array(items) => items.into_iter().map(redacted).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (name, redacted(value)))
            .collect(),
        other => other,
    }
}

/// RFC 3339, UTC, with milliseconds.
#[must_use]
pub fn is_time(text: &str) -> bool {
    const FORM: &[u8] = b"0000-00-00T00:00:00.000Z";
    text.len() == FORM.len()
        && text.bytes().zip(FORM).all(|(byte, form)| {
            if *form == b'0' {
                byte.is_ascii_digit()
            } else {
                byte == *form
            }
        })
}
