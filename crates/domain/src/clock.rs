//! Time: wall-clock timestamps, and the hybrid logical clock that stamps operations.
//!
//! A [`Hlc`] is (wall milliseconds, counter, node). The [`HybridClock`] of a node never goes backwards: not when
//! the wall clock does, and not across restarts, because it hands out stamps only below a ceiling that its
//! [`StampStore`] has made durable, and starts at that ceiling after a restart. The ceiling is at most
//! [`RESERVATION_MS`] ahead of what was reached, and so a node that was killed comes back little ahead of its wall clock.
//!
//! Whoever runs the clock calls [`HybridClock::reserve_ahead`] every [`RESERVE_EVERY_MS`], where blocking is allowed: it
//! moves the ceiling on when less than half of the range is left, while stamps below it go on being made. So a stamp waits
//! for a synced write only when it is the first after a minute's rest, or when nobody reserves ahead. Two small synced writes
//! a second are paid for it, and none while the clock rests.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// How far ahead of need stamps are reserved, in milliseconds.
pub const RESERVATION_MS: u64 = 1_000;

/// How often [`HybridClock::reserve_ahead`] is to be called, in milliseconds: early enough that a write of 300 ms keeps
/// no stamp waiting.
pub const RESERVE_EVERY_MS: u64 = 200;

/// After so long without a stamp, in milliseconds, nothing is reserved ahead.
const REST_MS: u64 = 60_000;

const RFC3339_MILLIS: &[BorrowedFormatItem<'static>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// A moment in UTC, in milliseconds since 1970. Shown as RFC 3339 with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The latest moment that has an RFC 3339 form with four-digit years, 9999-12-31T23:59:59.999Z.
    pub const MAX: Self = Self(253_402_300_799_999);
    /// 1970-01-01T00:00:00.000Z.
    pub const EPOCH: Self = Self(0);

    /// From milliseconds since 1970, clamped to `EPOCH..=MAX`.
    pub fn from_millis(millis: i64) -> Self {
        Self(millis.clamp(0, Self::MAX.0))
    }

    /// Milliseconds since 1970.
    pub fn millis(self) -> i64 {
        self.0
    }

    /// This moment plus `millis`.
    pub fn plus_millis(self, millis: i64) -> Self {
        Self::from_millis(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to this, 0 when it is later.
    pub fn millis_since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }

    /// Parses RFC 3339 with any offset and precision; finer than a millisecond is cut off.
    pub fn parse(text: &str) -> Option<Self> {
        let moment = OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
        let millis = i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000_000)).ok()?;
        (0..=Self::MAX.0).contains(&millis).then_some(Self(millis))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .map_err(|_| fmt::Error)?;
        f.write_str(&moment.format(RFC3339_MILLIS).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("not an RFC 3339 time"))
    }
}

/// The wall clock, as a port: tests set it.
pub trait WallClock: Send + Sync {
    /// The current time.
    fn now(&self) -> Timestamp;
}

/// The system's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl WallClock for SystemClock {
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place that reads the system clock"
    )]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// A clock that stands still until it is set, for tests.
#[cfg(any(test, feature = "mock"))]
#[derive(Debug, Default)]
pub struct MockClock(std::sync::atomic::AtomicI64);

#[cfg(any(test, feature = "mock"))]
impl MockClock {
    /// A clock that shows `millis` since 1970.
    pub fn at(millis: i64) -> Self {
        Self(millis.into())
    }

    /// Sets it, backwards too.
    pub fn set(&self, millis: i64) {
        self.0.store(millis, std::sync::atomic::Ordering::SeqCst);
    }
}

#[cfg(any(test, feature = "mock"))]
impl WallClock for MockClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(std::sync::atomic::Ordering::SeqCst))
    }
}

/// Which node made a stamp: random, made once, kept beside the write buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A hybrid logical clock stamp. Ordered by wall milliseconds, then counter, then node; never equal for two operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hlc {
    /// Wall milliseconds since 1970; 48 bits are kept.
    pub wall_ms: u64,
    /// Orders stamps of the same millisecond.
    pub counter: u16,
    /// The node that made it.
    pub node: NodeId,
}

impl Hlc {
    /// Earlier than every stamp a clock makes.
    pub const ZERO: Self = Self {
        wall_ms: 0,
        counter: 0,
        node: NodeId(0),
    };

    /// Sixteen bytes that compare as the stamps do: 6 of wall, 2 of counter, 8 of node, all big-endian.
    pub fn to_bytes(self) -> [u8; 16] {
        let time = (u128::from(self.wall_ms & 0xffff_ffff_ffff) << 80) | (u128::from(self.counter) << 64);
        (time | u128::from(self.node.0)).to_be_bytes()
    }

    /// The stamp of these sixteen bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let all = u128::from_be_bytes(bytes);
        #[allow(clippy::cast_possible_truncation, reason = "each part is masked to its width")]
        Self {
            wall_ms: (all >> 80) as u64,
            counter: ((all >> 64) & 0xffff) as u16,
            node: NodeId((all & 0xffff_ffff_ffff_ffff) as u64),
        }
    }

    /// The wall time of the stamp.
    pub fn timestamp(self) -> Timestamp {
        Timestamp::from_millis(i64::try_from(self.wall_ms).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.to_bytes()))
    }
}

impl std::str::FromStr for Hlc {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(|all| Self::from_bytes(all.to_be_bytes()))
    }
}

impl Serialize for Hlc {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hlc {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(|_| D::Error::custom("not a stamp"))
    }
}

/// Keeps a node's id and the ceiling of the stamps it may have handed out, across restarts.
pub trait StampStore: Send + Sync {
    /// Makes `ceiling_ms` durable before it returns. An error is the adapter's to log and count: the clock goes on,
    /// since its own memory still keeps it from going backwards.
    fn reserve(&self, ceiling_ms: u64);
}

/// Keeps nothing: for a clock whose node has no past, such as a test's.
impl StampStore for () {
    fn reserve(&self, _ceiling_ms: u64) {}
}

#[derive(Debug)]
struct Last {
    wall_ms: u64,
    counter: u16,
    /// Durable: every stamp is below it.
    ceiling_ms: u64,
    /// When the last stamp was made, by the wall clock; `None` before the first and after a release.
    used_ms: Option<u64>,
}

impl Last {
    /// Wall milliseconds and counter of the stamp after this one.
    fn next(&self, wall_ms: u64) -> (u64, u16) {
        if wall_ms > self.wall_ms {
            return (wall_ms, 0);
        }
        let ahead_ms = self.wall_ms - wall_ms;
        let next_counter = self
            .counter
            .checked_add(1)
            .filter(|_| !(1..RESERVATION_MS).contains(&ahead_ms));
        // A little ahead, as after a kill: by the millisecond, so that times go on telling what was first. Never further
        // ahead by that than a reservation, or a busy node would run away from its wall clock.
        next_counter.map_or((self.wall_ms + 1, 0), |counter| (self.wall_ms, counter))
    }

    /// The ceiling to reserve when it is time for the next.
    fn ceiling_due(&self, wall_ms: u64) -> Option<u64> {
        let idle = self.used_ms.is_none_or(|at| wall_ms.saturating_sub(at) > REST_MS);
        let reached = self.wall_ms.max(wall_ms);
        let enough = self.ceiling_ms > reached + RESERVATION_MS / 2;
        (!idle && !enough).then_some(reached + RESERVATION_MS)
    }
}

/// A node's stamp maker. Cheap to call: one lock that is held for a moment.
pub struct HybridClock {
    node: NodeId,
    wall: Arc<dyn WallClock>,
    store: Arc<dyn StampStore>,
    max_skew_ms: u64,
    /// Held while a ceiling is made durable; taken before `last`, never after it.
    reserving: Mutex<()>,
    last: Mutex<Last>,
}

impl fmt::Debug for HybridClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HybridClock")
            .field("node", &self.node)
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

impl HybridClock {
    /// A clock that starts no earlier than `floor_ms`, the ceiling that a former run reserved (0 when there was none).
    /// Stamps seen more than `max_skew_ms` ahead of the wall clock are reported by [`Self::observe`].
    pub fn new(
        node: NodeId,
        floor_ms: u64,
        max_skew_ms: u64,
        wall: Arc<dyn WallClock>,
        store: Arc<dyn StampStore>,
    ) -> Self {
        let last = Mutex::new(Last {
            wall_ms: floor_ms,
            counter: 0,
            ceiling_ms: floor_ms,
            used_ms: None,
        });
        Self {
            node,
            wall,
            store,
            max_skew_ms,
            reserving: Mutex::new(()),
            last,
        }
    }

    /// The node whose stamps these are.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The wall clock's time.
    pub fn now(&self) -> Timestamp {
        self.wall.now()
    }

    fn wall_ms(&self) -> u64 {
        u64::try_from(self.wall.now().millis()).unwrap_or(0)
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next stamp: later than every one made or observed before. Blocks for a synced write when nothing is reserved.
    pub fn stamp(&self) -> Hlc {
        loop {
            match self.stamp_within() {
                Ok(stamp) => return stamp,
                Err(beyond_ms) => self.reserve_beyond(beyond_ms),
            }
        }
    }

    /// The next stamp, unless it would be beyond what is reserved: then its wall milliseconds.
    fn stamp_within(&self) -> Result<Hlc, u64> {
        let now_ms = self.wall_ms();
        let mut last = self.last();
        let (wall_ms, counter) = last.next(now_ms);
        if wall_ms >= last.ceiling_ms {
            return Err(wall_ms);
        }
        (last.wall_ms, last.counter, last.used_ms) = (wall_ms, counter, Some(now_ms));
        Ok(Hlc {
            wall_ms,
            counter,
            node: self.node,
        })
    }

    fn reserve_beyond(&self, wall_ms: u64) {
        self.reserve_when(|last| (last.ceiling_ms <= wall_ms).then_some(wall_ms + RESERVATION_MS));
    }

    /// Reserves the next range when less than half of the present one is left, and the clock is in use. Blocks for a synced
    /// write then; stamps below the present ceiling do not wait for it.
    pub fn reserve_ahead(&self) {
        let now_ms = self.wall_ms();
        self.reserve_when(|last| last.ceiling_due(now_ms));
    }

    /// True when [`Self::reserve_ahead`] would write. Never blocks for long.
    pub fn wants_reservation(&self) -> bool {
        let now_ms = self.wall_ms();
        self.last().ceiling_due(now_ms).is_some()
    }

    fn reserve_when(&self, due: impl FnOnce(&Last) -> Option<u64>) {
        let _turn = self.reserving.lock().unwrap_or_else(PoisonError::into_inner);
        let due = due(&self.last());
        if let Some(ceiling_ms) = due {
            self.store.reserve(ceiling_ms);
            self.last().ceiling_ms = ceiling_ms;
        }
    }

    /// Moves the clock past `seen`, so that the next stamp is later. Returns by how many milliseconds `seen` is ahead of
    /// the wall clock when that is beyond the skew bound, for the caller to log and count.
    pub fn observe(&self, seen: Hlc) -> Option<u64> {
        let wall_ms = self.wall_ms();
        let mut last = self.last();
        if (seen.wall_ms, seen.counter) > (last.wall_ms, last.counter) {
            last.wall_ms = seen.wall_ms;
            last.counter = seen.counter;
        }
        let ahead = seen.wall_ms.saturating_sub(wall_ms);
        (ahead > self.max_skew_ms).then_some(ahead)
    }

    /// Reserves no further than the last stamp made, for a clean stop. Nothing is reserved ahead until the next stamp.
    pub fn release(&self) {
        let _turn = self.reserving.lock().unwrap_or_else(PoisonError::into_inner);
        let mut last = self.last();
        last.used_ms = None;
        last.ceiling_ms = last.wall_ms + 1;
        self.store.reserve(last.ceiling_ms);
    }
}

#[cfg(test)]
#[path = "clock_tests.rs"]
mod tests;
