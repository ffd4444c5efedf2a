//! Keeping snapshots, and letting them follow the log.

use super::fold::Fold;
use super::snapshots::Snapshot;
use super::{CachedChat, Wanted};
use gravity_domain::chat::UserEvent;
use gravity_domain::id::UserId;
use std::hash::Hash;

impl CachedChat {
    /// Keeps it, with what was acknowledged while it was read.
    pub(super) fn keep<K, T>(&self, wanted: &Wanted<'_, K, T>, snapshot: Snapshot<T>)
    where
        K: Hash + Eq + Clone + Send + Sync + 'static,
        T: Fold<K>,
    {
        self.trails.with(wanted.user, |trail| {
            trail.enter(snapshot.head.epoch);
            if let Some(id) = wanted.name.conversation() {
                trail.note(id);
            }
            let snapshot = trail.folded(&wanted.key, &snapshot).unwrap_or(snapshot);
            wanted.held.keep(wanted.key.clone(), snapshot);
        });
    }

    /// Lets what is kept of `user` follow these entries of their log.
    pub(super) fn follow<'a>(&self, user: UserId, events: impl Iterator<Item = &'a UserEvent>) {
        self.trails.with_known(user, |trail| {
            events.for_each(|event| trail.push(event));
            self.inboxes.follow(&user, trail);
            self.blocks.follow(&user, trail);
            trail.each_conversation(user, |place, trail| {
                let is_page = self.pages.follow(place, trail);
                self.conversations.follow(place, trail) || is_page
            });
            trail.trim();
        });
    }
}
