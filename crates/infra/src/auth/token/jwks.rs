//! The key set of an outside provider, fetched from its address and kept.
//!
//! - A known key is used at once; when the last fetch is older than [`JwksSettings::refresh`] another one starts in the
//!   background. So a provider that is slow or down delays nobody, and the last good keys stay in use.
//! - An unknown key is worth one fetch that the caller waits for, at most one per [`JwksSettings::unknown_interval`].
//! - One fetch at a time; whoever needs it shares it. It is bounded in time and size and follows no redirect.

use super::keys::{Choice, KeyError, KeySet, unknown_key};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use gravity_domain::auth::AuthError;
use jsonwebtoken::{Algorithm, DecodingKey};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;
use url::{Host, Url};

/// Where the keys are and how often to ask.
#[derive(Debug, Clone)]
pub struct JwksSettings {
    /// https, or http on loopback.
    pub url: String,
    /// Routine fetches are at least this far apart (60 s).
    pub refresh: Duration,
    /// Fetches for unknown keys are at least this far apart (10 s).
    pub unknown_interval: Duration,
    /// The longest a fetch may take (3 s).
    pub timeout: Duration,
    /// The largest answer taken (256 KiB).
    pub max_bytes: usize,
}

impl JwksSettings {
    /// The defaults, for the set at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            refresh: Duration::from_secs(60),
            unknown_interval: Duration::from_secs(10),
            timeout: Duration::from_secs(3),
            max_bytes: 256 * 1_024,
        }
    }
}

type Fetching = Shared<BoxFuture<'static, ()>>;

#[derive(Default)]
struct Schedule {
    routine: Option<Instant>,
    unknown: Option<Instant>,
    running: Option<Fetching>,
}

struct Inner {
    settings: JwksSettings,
    client: reqwest::Client,
    handle: Handle,
    /// `None` until the first good answer.
    keys: RwLock<Option<Arc<KeySet>>>,
    schedule: Mutex<Schedule>,
}

pub(super) struct Jwks {
    inner: Arc<Inner>,
}

impl Jwks {
    /// Fetches nothing yet; fetches run on `handle`.
    pub(super) fn new(settings: JwksSettings, handle: Handle) -> Result<Self, KeyError> {
        let url = Url::parse(&settings.url).map_err(|_| KeyError::Address)?;
        let loopback = is_loopback(&url);
        if url.scheme() != "https" && !(url.scheme() == "http" && loopback) {
            return Err(KeyError::Address);
        }
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(settings.timeout)
            .user_agent("gravity");
        if loopback {
            builder = builder.no_proxy();
        }
        let client = builder
            .build()
            .map_err(|error| KeyError::Client(error.to_string()))?;
        let inner = Inner {
            settings,
            client,
            handle,
            keys: RwLock::new(None),
            schedule: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The key for a token's header.
    pub(super) async fn key(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<DecodingKey, AuthError> {
        match self.choose(kid, algorithm) {
            Choice::Key(key) => {
                self.refresh();
                return Ok(*key);
            }
            Choice::OtherAlgorithm => return Err(AuthError::unauthenticated("algorithm")),
            Choice::Unknown => {}
        }
        if let Some(fetching) = self.fetch_unknown() {
            fetching.await;
        }
        match self.choose(kid, algorithm) {
            Choice::Key(key) => Ok(*key),
            Choice::OtherAlgorithm => Err(AuthError::unauthenticated("algorithm")),
            Choice::Unknown if self.inner.keys().is_none() => Err(AuthError::Unavailable {
                what: "keys",
                retry_after: self.inner.settings.unknown_interval,
                source: None,
            }),
            Choice::Unknown => Err(unknown_key()),
        }
    }

    fn choose(&self, kid: Option<&str>, algorithm: Algorithm) -> Choice {
        match self.inner.keys() {
            Some(keys) => keys.choose(kid, algorithm),
            None => Choice::Unknown,
        }
    }

    /// Starts a routine fetch if it is time.
    fn refresh(&self) {
        let mut schedule = self.inner.schedule();
        let due = is_due(schedule.routine, self.inner.settings.refresh);
        if due && schedule.running.is_none() {
            self.start(&mut schedule);
        }
    }

    /// The fetch to wait for, if one is running or another may start.
    fn fetch_unknown(&self) -> Option<Fetching> {
        let mut schedule = self.inner.schedule();
        if schedule.running.is_none() {
            if !is_due(schedule.unknown, self.inner.settings.unknown_interval) {
                return None;
            }
            schedule.unknown = Some(Instant::now());
            self.start(&mut schedule);
        }
        schedule.running.clone()
    }

    fn start(&self, schedule: &mut Schedule) {
        schedule.routine = Some(Instant::now());
        let inner = Arc::clone(&self.inner);
        let task = self.inner.handle.spawn(async move {
            inner.fetch().await;
            inner.schedule().running = None;
        });
        schedule.running = Some(task.map(|_| ()).boxed().shared());
    }
}

impl Inner {
    async fn fetch(&self) {
        let outcome = match self.download().await {
            Ok(keys) => {
                let keys = Arc::new(keys);
                let count = keys.len();
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(keys);
                tracing::debug!(keys = count, "the identity provider's keys were fetched");
                "ok"
            }
            Err(reason) => {
                tracing::warn!(reason, "the identity provider's keys could not be fetched");
                "failed"
            }
        };
        metrics::counter!("gravity_auth_jwks_fetches_total", "outcome" => outcome).increment(1);
    }

    async fn download(&self) -> Result<KeySet, &'static str> {
        let answer = self.client.get(&self.settings.url).send().await;
        let mut answer = answer.map_err(|_| "connect")?;
        if !answer.status().is_success() {
            return Err("status");
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|_| "body")? {
            if body.len() + chunk.len() > self.settings.max_bytes {
                return Err("too_large");
            }
            body.extend_from_slice(&chunk);
        }
        let keys = KeySet::from_json(&body).ok_or("malformed")?;
        if keys.len() == 0 {
            Err("no_usable_key")
        } else {
            Ok(keys)
        }
    }

    fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn schedule(&self) -> std::sync::MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_due(last: Option<Instant>, interval: Duration) -> bool {
    last.is_none_or(|last| last.elapsed() >= interval)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
