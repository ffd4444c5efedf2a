//! The last known profiles.
//!
//! Learning and forgetting go through the cache's one entry operation (`compute`), which takes turns per user: what was
//! judged good before a forgetting is in the cache before it, and goes with it.

use gravity_domain::id::UserId;
use gravity_domain::profile::Profile;
use gravity_domain::sync::Found;
use gravity_domain::sync::ports::EntityCache;
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use std::sync::atomic::{AtomicU64, Ordering};
use uuid::Uuid;

/// Remembers the profiles seen last.
#[derive(Debug)]
pub struct KnownProfiles {
    profiles: Cache<UserId, Profile>,
    /// How often something was forgotten on purpose: what was read before is not taken any more.
    forgotten: AtomicU64,
}

impl KnownProfiles {
    /// Remembers at most `max` profiles (about 1 KiB each, 10 KiB at most); those used longest ago are forgotten.
    pub fn new(max: u64) -> Self {
        let profiles = Cache::builder()
            .max_capacity(max)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self {
            profiles,
            forgotten: AtomicU64::new(0),
        }
    }

    /// Forgets a profile that may be out of date.
    pub fn forget(&self, user: UserId) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        self.profiles.entry(user).and_compute_with(|_| Op::Remove);
    }

    fn put(&self, profile: Profile, is_good: impl Fn() -> bool) {
        self.profiles
            .entry(profile.id)
            .and_compute_with(|known| match known {
                Some(known) if known.value().version > profile.version => Op::Nop,
                _ if is_good() => Op::Put(profile),
                _ => Op::Nop,
            });
    }
}

impl EntityCache<Profile> for KnownProfiles {
    fn find(&self, user: UserId, id: Uuid) -> Found<Profile> {
        if user.0 != id {
            return Found::Absent;
        }
        self.profiles.get(&user).map_or(Found::Unknown, Found::Known)
    }

    fn learn(&self, profile: Profile) {
        self.put(profile, || true);
    }

    fn mark(&self, _user: UserId) -> u64 {
        self.forgotten.load(Ordering::SeqCst)
    }

    fn learn_read(&self, profile: Profile, mark: u64) {
        self.put(profile, || self.forgotten.load(Ordering::SeqCst) == mark);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gravity_domain::auth::{Role, UserStatus, Username};
    use gravity_domain::clock::{Hlc, Timestamp};
    use gravity_domain::sync::Lww;

    fn profile(version: u64) -> Profile {
        Profile {
            id: UserId(Uuid::from_u128(1)),
            username: Username::parse("alice").unwrap(),
            name: Lww::new(None, Hlc::ZERO),
            avatar_url: Lww::new(None, Hlc::ZERO),
            role: Role::User,
            status: UserStatus::Active,
            created_at: Timestamp::EPOCH,
            updated_at: Timestamp::EPOCH,
            version,
        }
    }

    #[test]
    fn a_profile_never_goes_back_to_an_older_version() {
        let known = KnownProfiles::new(10);
        let id = profile(1).id;
        assert_eq!(known.find(id, id.0), Found::Unknown);
        known.learn(profile(2));
        known.learn(profile(1));
        assert_eq!(known.find(id, id.0), Found::Known(profile(2)));
        known.learn(profile(3));
        assert_eq!(known.find(id, id.0), Found::Known(profile(3)));
        assert_eq!(known.find(id, Uuid::from_u128(2)), Found::Absent);
        let before = known.mark(id);
        known.forget(id);
        known.learn_read(profile(2), before);
        assert_eq!(known.find(id, id.0), Found::Unknown);
        known.learn_read(profile(4), known.mark(id));
        assert_eq!(known.find(id, id.0), Found::Known(profile(4)));
    }

    #[test]
    fn a_profile_that_is_being_learnt_while_it_is_forgotten_does_not_come_back() {
        use std::sync::mpsc::channel;
        let known = KnownProfiles::new(10);
        let id = profile(1).id;
        let ((begun, has_begun), (let_go, go_on), (forgot, forgotten)) = (channel(), channel(), channel());
        std::thread::scope(|threads| {
            let cache = &known;
            threads.spawn(move || {
                cache.put(profile(1), || {
                    begun.send(()).unwrap();
                    go_on.recv().unwrap();
                    true
                });
            });
            has_begun.recv().unwrap();
            threads.spawn(move || {
                cache.forget(id);
                forgot.send(()).unwrap();
            });
            // It has to wait; were it to end, that would be before the profile is put.
            let waits = forgotten.recv_timeout(std::time::Duration::from_millis(50));
            let_go.send(()).unwrap();
            assert!(waits.is_err());
        });
        assert_eq!(known.find(id, id.0), Found::Unknown);
    }
}
