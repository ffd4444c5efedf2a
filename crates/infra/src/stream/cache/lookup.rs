//! Which version a user is at: asked of Redis, then of Postgres, and told to Redis.

use super::Core;
use super::metrics::{Kind, Level, count};
use super::versions::{CLEAN, DOUBT, Teller, Ticket};
use gravity_domain::error::StoreError;
use gravity_domain::id::UserId;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often telling is tried again.
const AGAIN: Duration = Duration::from_millis(100);
/// Versions told at once.
const BATCH: usize = 256;

/// How long a node may take to tell Redis of a version, at the most; what it tells later is not to be found there.
const LATE: Duration = Duration::from_secs(5);
/// What a replay finds committed comes in quick succession.
const TOGETHER: Duration = Duration::from_millis(10);

/// Names a look-up: one that began before an invalidation is not joined after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Asking {
    user: UserId,
    generation: u64,
    /// Whether Redis is passed over.
    of_store: bool,
}

/// What Redis said.
enum Shared {
    Version(u64),
    /// It answered, and holds none, or one that may be too old.
    Nothing,
    /// It was not asked, or did not answer.
    Silent,
}

impl Core {
    /// The user's version: at least `at_least`, unless Postgres itself is not there yet.
    pub(super) async fn look_up(self: &Arc<Self>, user: UserId, at_least: u64) -> Result<u64, StoreError> {
        if let Some(version) = self.known(user, at_least) {
            return Ok(version);
        }
        count(Kind::Version, Level::Process, false);
        let ticket = self.versions.begin(user, self.trust.epoch());
        let mut version = self.ask(user, ticket, false).await?.0;
        // Of those who began before, one may have looked before the version that is wanted; the next one that lands began after.
        for _ in 0..2 {
            if version >= at_least {
                break;
            }
            let ticket = self.versions.begin(user, self.trust.epoch());
            let (found, led) = self.ask(user, ticket, true).await?;
            version = found;
            if led {
                break;
            }
        }
        Ok(version)
    }

    async fn ask(
        self: &Arc<Self>,
        user: UserId,
        ticket: Ticket,
        of_store: bool,
    ) -> Result<(u64, bool), StoreError> {
        let asking = Asking {
            user,
            generation: ticket.generation,
            of_store,
        };
        let core = self.clone();
        let landed = self
            .version_flights
            .join(asking, move || async move {
                let shared = if of_store {
                    Shared::Silent
                } else {
                    core.ask_redis(user, ticket).await
                };
                match shared {
                    Shared::Version(version) => Ok(version),
                    Shared::Nothing => core.ask_store(user, ticket, true).await,
                    Shared::Silent => core.ask_store(user, ticket, false).await,
                }
            })
            .await?;
        // What was learnt meanwhile counts too: this node may have raised it.
        Ok((self.versions.at_least(user, landed.value), landed.led))
    }

    /// What Redis knows for certain.
    pub(super) async fn ask_shared(&self, user: UserId, at_least: u64) -> Option<u64> {
        let ticket = self.versions.begin(user, self.trust.epoch());
        match self.ask_redis(user, ticket).await {
            Shared::Version(version) => Some(version).filter(|version| *version >= at_least),
            Shared::Nothing | Shared::Silent => None,
        }
    }

    async fn ask_redis(&self, user: UserId, ticket: Ticket) -> Shared {
        let may = ticket.epoch.is_some() && !ticket.doubted;
        let (Some(shared), Some(run_id), true) = (&self.shared, self.trust.run_id(), may) else {
            return Shared::Silent;
        };
        let lacks = self.outbox.lacks(CLEAN + LATE);
        let found = shared.version(&run_id, user).await;
        // Asked of a life that may have ended meanwhile.
        if self.trust.epoch() != ticket.epoch {
            return Shared::Silent;
        }
        count(Kind::Version, Level::Redis, matches!(found, Ok(Some(_))));
        match found {
            Ok(Some((version, life))) if !lacks => {
                let version = version.max(self.outbox.of(user));
                Shared::Version(self.versions.learnt(user, version, ticket, Teller::Redis(life)))
            }
            Ok(_) => Shared::Nothing,
            Err(_) => Shared::Silent,
        }
    }

    async fn ask_store(
        self: &Arc<Self>,
        user: UserId,
        ticket: Ticket,
        redis_answered: bool,
    ) -> Result<u64, StoreError> {
        if !self.breaker.allows_reads() {
            return Err(StoreError::unavailable("breaker_open"));
        }
        let found = self.store.version(user).await;
        count(Kind::Version, Level::Postgres, found.is_ok());
        let version = found?;
        self.tell_once(user, version);
        let teller = Teller::Store { redis_answered };
        Ok(self.versions.learnt(user, version, ticket, teller))
    }

    /// Spares others the question. Nothing is lost when it fails.
    pub(super) fn tell_once(self: &Arc<Self>, user: UserId, version: u64) {
        if self.trust.epoch().is_none() || version == 0 {
            return;
        }
        let (Some(shared), Some(run_id)) = (self.shared.clone(), self.trust.run_id()) else {
            return;
        };
        self.handle.spawn(async move {
            let _ = shared.raise(&run_id, &[(user, version)]).await;
        });
    }

    /// Ends a doubt when what caused it can no longer be committed.
    pub(super) async fn settle(self: Arc<Self>, user: UserId) {
        tokio::time::sleep(DOUBT + Duration::from_millis(10)).await;
        let _ = self.look_up(user, 0).await;
    }

    /// Tells everyone of what the user has done, that is committed at nobody knows which version.
    pub(super) async fn tell_unseen(self: Arc<Self>, user: UserId) {
        tokio::time::sleep(TOGETHER).await;
        loop {
            // Whatever is found committed from now on is looked up anew.
            self.unseen().remove(&user);
            if let Ok(version) = self.look_up(user, 0).await {
                return self.raise_act(user, version);
            }
            if !self.unseen().insert(user) {
                return;
            }
            tokio::time::sleep(DOUBT).await;
        }
    }

    /// Tells Redis what this node has raised, until `stop`.
    pub(super) async fn tell_on(self: Arc<Self>, stop: CancellationToken) {
        let telling = async {
            loop {
                tokio::select! {
                    () = self.outbox.woken() => {}
                    () = tokio::time::sleep(AGAIN), if !(self.outbox.is_empty() && self.acts_to_tell.is_empty()) => {}
                }
                while self.tell_some().await {}
                while self.tell_acts().await {}
            }
        };
        stop.run_until_cancelled(telling).await;
    }

    /// True when some were told.
    async fn tell_acts(&self) -> bool {
        let some = self.acts_to_tell.some(BATCH);
        let Some(shared) = self.shared.as_ref().filter(|_| !some.is_empty()) else {
            return false;
        };
        let told = shared.tell_acted(&some).await.is_ok();
        if told {
            self.acts_to_tell.told(&some);
        }
        told
    }

    /// True when some were told for certain. While the tracking connection is down, the server's life is only guessed: it is
    /// told, and told again when it is up.
    async fn tell_some(&self) -> bool {
        let some = self.outbox.some(BATCH);
        let (Some(shared), Some(run_id), false) = (&self.shared, self.trust.run_id(), some.is_empty()) else {
            return false;
        };
        let epoch = self.trust.epoch();
        let late = self.outbox.late(&some, LATE);
        let told = match late.is_empty() {
            true => shared.raise(&run_id, &some).await.is_ok(),
            false => shared.only_announce(&run_id, &some).await.is_ok(),
        };
        let certain = told && epoch.is_some() && self.trust.epoch() == epoch;
        if certain {
            self.outbox.told(&some);
        }
        certain
    }
}
