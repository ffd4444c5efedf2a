//! Sessions in this process, for a node without Redis. They end with the process; the number is bounded, in all and per user.

use async_trait::async_trait;
use gravity_domain::auth::{NewSession, RefreshHash, Rotation, Session, SessionStore, Spend};
use gravity_domain::clock::{Timestamp, WallClock};
use gravity_domain::error::StoreError;
use gravity_domain::id::{SessionId, UserId};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Debug)]
struct Stored {
    session: Session,
    present: RefreshHash,
    former: Option<(RefreshHash, Timestamp)>,
}

#[derive(Debug, Default)]
struct Table {
    sessions: HashMap<SessionId, Stored>,
    /// In the order in which they end.
    ending: BTreeSet<(Timestamp, SessionId)>,
    of_user: HashMap<UserId, BTreeSet<(Timestamp, SessionId)>>,
}

/// The store; one per process.
pub struct MemorySessions {
    table: Mutex<Table>,
    clock: Arc<dyn WallClock>,
    most: usize,
    most_per_user: usize,
}

impl std::fmt::Debug for MemorySessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemorySessions")
            .field("most", &self.most)
            .field("most_per_user", &self.most_per_user)
            .finish_non_exhaustive()
    }
}

impl MemorySessions {
    /// An empty store for `most` sessions, `most_per_user` of each user; both at least 1.
    pub fn new(most: usize, most_per_user: usize, clock: Arc<dyn WallClock>) -> Self {
        Self {
            table: Mutex::default(),
            clock,
            most: most.max(1),
            most_per_user: most_per_user.max(1),
        }
    }

    /// The table without the sessions that have ended.
    fn table(&self, now: Timestamp) -> std::sync::MutexGuard<'_, Table> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((ends, id)) = table.ending.first().copied()
            && ends <= now
        {
            table.remove(id);
        }
        table
    }
}

impl Table {
    fn index(&mut self, user: UserId, ends: Timestamp, id: SessionId) {
        self.ending.insert((ends, id));
        self.of_user.entry(user).or_default().insert((ends, id));
    }

    fn unindex(&mut self, user: UserId, ends: Timestamp, id: SessionId) {
        self.ending.remove(&(ends, id));
        if let Some(own) = self.of_user.get_mut(&user) {
            own.remove(&(ends, id));
            if own.is_empty() {
                self.of_user.remove(&user);
            }
        }
    }

    fn remove(&mut self, id: SessionId) -> bool {
        let Some(stored) = self.sessions.remove(&id) else {
            return false;
        };
        self.unindex(stored.session.user_id, stored.session.expires_at, id);
        true
    }

    fn is_of(&self, user: UserId, id: SessionId) -> bool {
        self.sessions
            .get(&id)
            .is_some_and(|stored| stored.session.user_id == user)
    }

    fn rotate(&mut self, spend: &Spend) -> Rotation {
        if !self.is_of(spend.user_id, spend.session_id) {
            return Rotation::Unknown;
        }
        let Some(stored) = self.sessions.get_mut(&spend.session_id) else {
            return Rotation::Unknown;
        };
        let at = stored.session.generation;
        if spend.generation == at && spend.presented == stored.present {
            let ended = stored.session.expires_at;
            stored.former = Some((stored.present, spend.now));
            stored.present = spend.successor;
            stored.session.generation = at.wrapping_add(1);
            stored.session.last_used_at = spend.now;
            stored.session.expires_at = spend.expires_at;
            let session = stored.session.clone();
            self.unindex(session.user_id, ended, session.id);
            self.index(session.user_id, session.expires_at, session.id);
            return Rotation::Rotated(session);
        }
        let grace = u64::try_from(spend.grace.as_millis()).unwrap_or(u64::MAX);
        let just_spent = |(hash, when): (RefreshHash, Timestamp)| {
            hash == spend.presented && spend.now.millis_since(when) <= grace
        };
        if spend.generation.wrapping_add(1) == at && stored.former.is_some_and(just_spent) {
            return Rotation::Replayed(stored.session.clone());
        }
        if spend.generation < at {
            self.remove(spend.session_id);
            return Rotation::Revoked;
        }
        Rotation::Unknown
    }
}

#[async_trait]
impl SessionStore for MemorySessions {
    async fn create(&self, new: NewSession) -> Result<(), StoreError> {
        let mut table = self.table(self.clock.now());
        let stored = Stored {
            session: Session {
                id: new.id,
                user_id: new.user_id,
                role: new.role,
                client: new.client,
                generation: 0,
                created_at: new.created_at,
                last_used_at: new.created_at,
                expires_at: new.expires_at,
            },
            present: new.refresh_hash,
            former: None,
        };
        table.sessions.insert(new.id, stored);
        table.index(new.user_id, new.expires_at, new.id);
        while let Some(own) = table.of_user.get(&new.user_id)
            && own.len() > self.most_per_user
            && let Some((_, first)) = own.first().copied()
        {
            table.remove(first);
        }
        while table.ending.len() > self.most
            && let Some((_, first)) = table.ending.first().copied()
        {
            table.remove(first);
        }
        Ok(())
    }

    async fn rotate(&self, spend: &Spend) -> Result<Rotation, StoreError> {
        Ok(self.table(spend.now).rotate(spend))
    }

    async fn list(&self, user: UserId) -> Result<Vec<Session>, StoreError> {
        let table = self.table(self.clock.now());
        let own = table.of_user.get(&user).into_iter().flatten();
        let mut sessions: Vec<Session> = own
            .filter_map(|(_, id)| table.sessions.get(id))
            .map(|stored| stored.session.clone())
            .collect();
        sessions.sort_by_key(|session| std::cmp::Reverse((session.created_at, session.id)));
        Ok(sessions)
    }

    async fn revoke(&self, user: UserId, session: SessionId) -> Result<bool, StoreError> {
        let mut table = self.table(self.clock.now());
        Ok(table.is_of(user, session) && table.remove(session))
    }
}
