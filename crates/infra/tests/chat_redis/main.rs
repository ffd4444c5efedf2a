//! What chat does in Redis: hints between nodes, presence and tickets, with real servers that go away.

mod feed;
mod presence;
mod tickets;

use gravity_domain::auth::Secret;
use gravity_domain::error::StoreError;
use gravity_domain::id::UserId;
use gravity_domain::sync::ports::Breaker;
use gravity_infra::redis::{Redis, RedisSettings};
use gravity_test_support::services;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(20);

struct Switch(AtomicBool);

impl Switch {
    fn closed() -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(true)))
    }

    fn allow(&self, reads: bool) {
        self.0.store(reads, Ordering::SeqCst);
    }
}

impl Breaker for Switch {
    fn allows_writes(&self) -> bool {
        self.allows_reads()
    }
    fn allows_reads(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
    fn failed(&self, _: &StoreError) {}
}

fn connect(url: &str, breaker: Arc<Switch>) -> Redis {
    Redis::new(RedisSettings::new(Secret::new(url)), Handle::current(), breaker).unwrap()
}

fn redis(url: &str) -> Redis {
    connect(url, Switch::closed())
}

fn user() -> UserId {
    UserId(Uuid::new_v4())
}

fn server() -> services::Redis {
    services::Redis::start_private().unwrap()
}
