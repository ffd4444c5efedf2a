//! What requests to push services and to the webhook have in common: bounded in time, following nothing, reading little.

use super::endpoint::NotPublic;
use gravity_domain::chat::Delivery;
use reqwest::header::RETRY_AFTER;
use reqwest::{ClientBuilder, RequestBuilder, Response};
use std::error::Error;
use std::time::Duration;

const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// As much of an answer is read, so that the connection can be used again; a longer one costs the connection.
const READ_AT_MOST: usize = 4_096;

/// No HTTP client can be made: the system's roots of trust cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("no HTTP client can be made for notifications")]
pub struct NoClient(#[from] reqwest::Error);

pub(super) fn client(timeout: Duration) -> ClientBuilder {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_PATIENCE.min(timeout))
        .timeout(timeout)
        .user_agent("gravity")
}

/// What the other side said, or why it said nothing.
pub(super) struct Said {
    /// The status.
    pub(super) status: u16,
    /// `Retry-After`, in seconds.
    pub(super) retry_after: Option<Duration>,
}

impl Said {
    pub(super) fn later(&self, reason: &'static str) -> Delivery {
        Delivery::Later {
            after: self.retry_after,
            reason,
        }
    }
}

/// Sends; `Err` is what to make of having no answer.
pub(super) async fn send(request: RequestBuilder) -> Result<Said, Delivery> {
    let mut answer = request.send().await.map_err(|error| unanswered(&error))?;
    let said = Said {
        status: answer.status().as_u16(),
        retry_after: retry_after(&answer),
    };
    let mut read = 0;
    while let Ok(Some(chunk)) = answer.chunk().await {
        read += chunk.len();
        if read > READ_AT_MOST {
            break;
        }
    }
    Ok(said)
}

fn unanswered(error: &reqwest::Error) -> Delivery {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(one) = cause {
        if one.is::<NotPublic>() {
            return Delivery::Refused { reason: "endpoint" };
        }
        cause = one.source();
    }
    let reason = if error.is_timeout() { "timeout" } else { "connect" };
    Delivery::Later { after: None, reason }
}

fn retry_after(answer: &Response) -> Option<Duration> {
    let text = answer.headers().get(RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}
