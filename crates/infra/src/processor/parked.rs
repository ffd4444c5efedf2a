//! Parked lanes: whose operation failed and will be tried again, and when. Bounded.

use super::batch::Item;
use gravity_domain::id::UserId;
use std::collections::HashMap;
use tokio::time::Instant;

#[derive(Debug)]
struct Lane {
    /// The operation that failed, with its attempts.
    item: Item,
    retry_at: Instant,
}

#[derive(Debug)]
pub(super) struct Parked {
    lanes: HashMap<UserId, Lane>,
    most: usize,
}

impl Parked {
    pub(super) fn new(most: usize) -> Self {
        Self {
            lanes: HashMap::new(),
            most,
        }
    }

    /// Parks the lane of `item`, again or for the first time. Gives it back when too many lanes are parked.
    pub(super) fn park(&mut self, item: Item, retry_at: Instant) -> Result<(), Box<Item>> {
        let lane = item.operation.user_id;
        if self.lanes.len() >= self.most && !self.lanes.contains_key(&lane) {
            return Err(Box::new(item));
        }
        self.lanes.insert(lane, Lane { item, retry_at });
        Ok(())
    }

    pub(super) fn holds(&self, lane: UserId) -> bool {
        self.lanes.contains_key(&lane)
    }

    /// The lane goes on.
    pub(super) fn free(&mut self, lane: UserId) {
        self.lanes.remove(&lane);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// When the next lane is due.
    pub(super) fn earliest(&self) -> Option<Instant> {
        self.lanes.values().map(|lane| lane.retry_at).min()
    }

    /// Up to `most` operations whose time has come, those that wait longest first.
    pub(super) fn due(&self, now: Instant, most: usize) -> Vec<Item> {
        let mut due: Vec<&Lane> = self.lanes.values().filter(|lane| lane.retry_at <= now).collect();
        due.sort_by_key(|lane| lane.retry_at);
        due.into_iter().take(most).map(|lane| lane.item.clone()).collect()
    }
}
