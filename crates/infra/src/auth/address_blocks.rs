//! Addresses that were refused too often are kept out for a while.
//!
//! Counting is per client network (an IPv6 /64 is one client), in slots of a sixtieth of the window. What every request pays
//! is one look-up in a small map of the blocked. Memory is bounded: networks seen longest ago are forgotten first.

use gravity_domain::auth::{AddressBlocker, client_network};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

const SLOTS: usize = 60;

/// When to block.
#[derive(Debug, Clone, Copy)]
pub struct BlockSettings {
    /// Refused requests within the window that block (`IP_BLOCK_THRESHOLD`, 100).
    pub threshold: u32,
    /// The window (`IP_BLOCK_WINDOW_SECONDS`, 60 s).
    pub window: Duration,
    /// How long a block lasts (`IP_BLOCK_SECONDS`, 300 s).
    pub block: Duration,
    /// Networks remembered (50,000).
    pub capacity: u64,
}

impl Default for BlockSettings {
    fn default() -> Self {
        Self {
            threshold: 100,
            window: Duration::from_secs(60),
            block: Duration::from_secs(300),
            capacity: 50_000,
        }
    }
}

/// Refusals in the slots of the last window; `slot` counts slots since the start of the process.
#[derive(Debug)]
struct Refusals {
    slot: u64,
    counts: [u32; SLOTS],
}

impl Default for Refusals {
    fn default() -> Self {
        Self {
            slot: 0,
            counts: [0; SLOTS],
        }
    }
}

impl Refusals {
    /// Counts one at `slot` and gives how many the window holds.
    fn add(&mut self, slot: u64) -> u32 {
        let passed = slot.saturating_sub(self.slot).min(SLOTS as u64);
        for step in 1..=passed {
            self.counts[index(slot.saturating_sub(passed) + step)] = 0;
        }
        self.slot = self.slot.max(slot);
        let count = &mut self.counts[index(self.slot)];
        *count = count.saturating_add(1);
        self.counts
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "a remainder of 60 fits every usize"
)]
fn index(slot: u64) -> usize {
    (slot % SLOTS as u64) as usize
}

/// The blocker; one per process.
pub struct AddressBlocks {
    settings: BlockSettings,
    started: Instant,
    refusals: Cache<IpAddr, Arc<Mutex<Refusals>>>,
    blocked: Cache<IpAddr, Instant>,
    announce: Option<mpsc::Sender<IpAddr>>,
}

impl std::fmt::Debug for AddressBlocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AddressBlocks")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl AddressBlocks {
    /// A blocker for this process alone.
    pub fn new(settings: BlockSettings) -> Self {
        let lru = || EvictionPolicy::lru();
        Self {
            settings,
            started: Instant::now(),
            refusals: Cache::builder()
                .max_capacity(settings.capacity)
                .eviction_policy(lru())
                .time_to_idle(settings.window)
                .build(),
            blocked: Cache::builder()
                .max_capacity(settings.capacity)
                .eviction_policy(lru())
                .time_to_live(settings.block)
                .build(),
            announce: None,
        }
    }

    /// A blocker that also announces its blocks, for [`share_blocks`](super::share_blocks). When the channel (1,000) is
    /// full, a block stays this node's own.
    pub fn announcing(settings: BlockSettings) -> (Self, mpsc::Receiver<IpAddr>) {
        let (sender, receiver) = mpsc::channel(1_000);
        let blocks = Self {
            announce: Some(sender),
            ..Self::new(settings)
        };
        (blocks, receiver)
    }

    /// The settings.
    pub fn settings(&self) -> &BlockSettings {
        &self.settings
    }

    /// Takes over a block of another node, for the time that is left of it.
    pub(super) fn adopt(&self, network: IpAddr, left: Duration) {
        let until = Instant::now() + left.min(self.settings.block);
        self.blocked.insert(network, until);
    }

    fn slot(&self) -> u64 {
        let slot = (self.settings.window / SLOTS as u32).max(Duration::from_millis(1));
        u64::try_from(self.started.elapsed().as_millis() / slot.as_millis().max(1)).unwrap_or(u64::MAX)
    }

    fn block(&self, network: IpAddr) {
        self.refusals.invalidate(&network);
        self.blocked.insert(network, Instant::now() + self.settings.block);
        metrics::counter!("gravity_addresses_blocked_total").increment(1);
        tracing::warn!(%network, seconds = self.settings.block.as_secs(), "an address is blocked");
        if let Some(announce) = &self.announce {
            // A full channel: the block is this node's own.
            let _ = announce.try_send(network);
        }
    }
}

impl AddressBlocker for AddressBlocks {
    fn blocked(&self, address: IpAddr) -> Option<Duration> {
        let until = self.blocked.get(&client_network(address))?;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    fn refused(&self, address: IpAddr) {
        let network = client_network(address);
        if self.blocked(network).is_some() {
            return;
        }
        let refusals = self.refusals.get_with(network, Arc::default);
        let count = refusals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add(self.slot());
        if count >= self.settings.threshold {
            self.block(network);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn blocks(threshold: u32) -> AddressBlocks {
        AddressBlocks::new(BlockSettings {
            threshold,
            ..BlockSettings::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_refused_as_often_as_the_threshold_is_blocked_for_its_time() {
        let blocks = blocks(100);
        let bad = address("192.0.2.1");
        for _ in 0..99 {
            blocks.refused(bad);
        }
        assert_eq!(blocks.blocked(bad), None);
        blocks.refused(bad);
        assert_eq!(blocks.blocked(bad), Some(Duration::from_secs(300)));
        assert_eq!(blocks.blocked(address("192.0.2.2")), None);
        tokio::time::advance(Duration::from_secs(299)).await;
        blocks.refused(bad);
        assert_eq!(blocks.blocked(bad), Some(Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(blocks.blocked(bad), None);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_older_than_the_window_do_not_count() {
        let blocks = blocks(10);
        let slow = address("192.0.2.1");
        for _ in 0..50 {
            blocks.refused(slow);
            tokio::time::advance(Duration::from_secs(7)).await;
            assert_eq!(blocks.blocked(slow), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_ipv6_network_is_one_client() {
        let blocks = blocks(2);
        blocks.refused(address("2001:db8::1"));
        blocks.refused(address("2001:db8::2"));
        assert!(blocks.blocked(address("2001:db8::3")).is_some());
        assert!(blocks.blocked(address("2001:db8:0:1::3")).is_none());
    }
}
