//! A user's HTTP client, and reading what the server answers.

use std::time::Duration;

use gravity_test_support::history::{Ack, Failure, Fields, Shown, Silence};
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;

use crate::node::SECRET;

/// Beyond every deadline of the server; an answer that takes longer never came.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    /// Of each node.
    bases: Vec<String>,
    token: String,
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) key: Option<String>,
    pub(crate) body: Option<Value>,
}

impl Request {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            key: None,
            body: None,
        }
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) operation: String,
    pub(crate) retry_after: bool,
    /// Whether it may be behind Postgres.
    pub(crate) is_aged: bool,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// What makes this no success.
    pub(crate) fn failure(&self) -> Failure {
        Failure::Refused {
            status: self.status,
            code: self.json()["code"].as_str().unwrap_or_default().to_owned(),
            retry_after: self.retry_after,
        }
    }

    /// A write's success.
    pub(crate) fn ack(&self) -> Ack {
        Ack {
            status: self.status,
            operation: self.operation.clone(),
            version: self.json()["data"]["version"].as_u64(),
            body: self.text.clone(),
        }
    }
}

impl Client {
    /// A client with connections of its own.
    pub(crate) fn new(bases: &[String], user: &str, role: &str) -> Result<Self, crate::Failure> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .connect_timeout(Duration::from_secs(2))
            .build()?;
        Ok(Self {
            http,
            bases: bases.to_vec(),
            token: token(user, role)?,
        })
    }

    /// What it is known by.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Where each node answers.
    pub(crate) fn bases(&self) -> &[String] {
        &self.bases
    }

    /// Sends a request and waits; with `give_up`, no longer than that, and then the connection is dropped.
    pub(crate) async fn send(
        &self,
        node: usize,
        request: &Request,
        give_up: Option<Duration>,
    ) -> Result<Answer, Silence> {
        let exchange = self.exchange(node, request);
        match give_up {
            None => exchange.await,
            Some(patience) => tokio::time::timeout(patience, exchange)
                .await
                .unwrap_or(Err(Silence::GaveUp)),
        }
    }

    async fn exchange(&self, node: usize, request: &Request) -> Result<Answer, Silence> {
        let url = format!("{}{}", self.bases[node], request.path);
        let mut builder = self
            .http
            .request(request.method.clone(), url)
            .bearer_auth(&self.token);
        if let Some(key) = &request.key {
            builder = builder.header("Idempotency-Key", key);
        }
        if let Some(body) = &request.body {
            builder = builder
                .header("Content-Type", "application/json")
                .body(body.to_string());
        }
        let response = builder.send().await.map_err(|error| silence(&error))?;
        let status = response.status();
        let (operation, retry_after, is_aged) = (
            header(&response, "Operation-Id").unwrap_or_default(),
            header(&response, "Retry-After").is_some(),
            header(&response, "Gravity-Consistency").is_some(),
        );
        let text = response.text().await.map_err(|error| silence(&error))?;
        Ok(Answer {
            status: status.as_u16(),
            operation,
            retry_after,
            is_aged,
            text,
        })
    }

    /// Whether the node is ready with an empty buffer and its stores up; `Err` holds what it said instead.
    pub(crate) async fn is_settled(&self, node: usize) -> Result<(), String> {
        let answer = self
            .send(node, &Request::get("/ready"), None)
            .await
            .map_err(|silence| format!("{silence:?}"))?;
        let report = answer.json();
        let settled = answer.status == StatusCode::OK.as_u16()
            && report["buffer"]["size"].as_u64() == Some(0)
            && report["buffer"]["status"].as_str() == Some("empty")
            && report["services"]["postgresql"]["status"].as_bool() == Some(true);
        if settled {
            Ok(())
        } else {
            Err(format!("{} {}", answer.status, answer.text))
        }
    }
}

fn silence(error: &reqwest::Error) -> Silence {
    if error.is_timeout() && !error.is_connect() {
        Silence::TimedOut
    } else {
        Silence::Cut
    }
}

fn header(response: &Response, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

fn token(user: &str, role: &str) -> Result<String, crate::Failure> {
    const FOREVER: u64 = 4_102_444_800;
    let claims = serde_json::json!({"sub": user, "role": role, "exp": FOREVER});
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    Ok(jsonwebtoken::encode(
        &jsonwebtoken::Header::default(),
        &claims,
        &key,
    )?)
}

/// An entity from `data` of an answer, or an item of a list.
pub(crate) fn shown(data: &Value) -> Option<Shown> {
    if let Some(fields) = flags(data) {
        return Some(Shown {
            entity: data["id"].as_str()?.to_owned(),
            version: data["version"].as_u64()?,
            fields,
        });
    }
    let names: &[&str] = match data.get("username") {
        Some(_) => &["name"],
        None => &["title", "description", "status"],
    };
    let mut fields = Fields::new();
    for name in names.iter().copied() {
        if let Some(value) = data.get(name) {
            fields.insert(name.into(), value.as_str().map(str::to_owned));
        }
    }
    Some(Shown {
        entity: data["id"].as_str()?.to_owned(),
        version: data["version"].as_u64()?,
        fields,
    })
}

/// The flags of an item of a stream; `None` when it is no item.
fn flags(data: &Value) -> Option<Fields> {
    let flag = |name: &str| Some(Some(data[name].as_bool()?.to_string()));
    Some(Fields::from([
        ("unread".to_owned(), flag("isUnread")?),
        ("archived".to_owned(), flag("isArchived")?),
    ]))
}
