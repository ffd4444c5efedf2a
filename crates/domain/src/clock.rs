//! Time: wall-clock timestamps, and the hybrid logical clock that stamps operations.
//!
//! A [`Hlc`] is (wall milliseconds, counter, node). The [`HybridClock`] of a node never goes backwards: not when
//! the wall clock does, and not across restarts, because it hands out stamps only below a ceiling that its
//! [`StampStore`] has made durable, and starts at that ceiling after a restart. The ceiling moves ahead in steps of
//! [`RESERVATION_MS`], so at most one small synced write a second is paid for it, and a node that was killed comes
//! back at most that far ahead of its wall clock.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// How far ahead of need stamps are reserved, in milliseconds.
pub const RESERVATION_MS: u64 = 1_000;

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
    ceiling_ms: u64,
}

/// A node's stamp maker. Cheap to call: one uncontended lock, and a synced write at most once a second.
pub struct HybridClock {
    node: NodeId,
    wall: Arc<dyn WallClock>,
    store: Arc<dyn StampStore>,
    max_skew_ms: u64,
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
        });
        Self {
            node,
            wall,
            store,
            max_skew_ms,
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

    /// The next stamp: later than every one made or observed before.
    pub fn stamp(&self) -> Hlc {
        let wall_ms = u64::try_from(self.wall.now().millis()).unwrap_or(0);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead_ms = last.wall_ms.saturating_sub(wall_ms);
        let next_counter = last
            .counter
            .checked_add(1)
            .filter(|_| !(1..RESERVATION_MS).contains(&ahead_ms));
        if wall_ms > last.wall_ms {
            last.wall_ms = wall_ms;
            last.counter = 0;
        } else if let Some(counter) = next_counter {
            last.counter = counter;
        } else {
            // A little ahead, as after a kill: by the millisecond, so that times go on telling what was first. Never further
            // ahead by that than a reservation, or a busy node would run away from its wall clock.
            last.wall_ms += 1;
            last.counter = 0;
        }
        if last.wall_ms >= last.ceiling_ms {
            last.ceiling_ms = last.wall_ms + RESERVATION_MS;
            self.store.reserve(last.ceiling_ms);
        }
        Hlc {
            wall_ms: last.wall_ms,
            counter: last.counter,
            node: self.node,
        }
    }

    /// Moves the clock past `seen`, so that the next stamp is later. Returns by how many milliseconds `seen` is ahead of
    /// the wall clock when that is beyond the skew bound, for the caller to log and count.
    pub fn observe(&self, seen: Hlc) -> Option<u64> {
        let wall_ms = u64::try_from(self.wall.now().millis()).unwrap_or(0);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if (seen.wall_ms, seen.counter) > (last.wall_ms, last.counter) {
            last.wall_ms = seen.wall_ms;
            last.counter = seen.counter;
        }
        let ahead = seen.wall_ms.saturating_sub(wall_ms);
        (ahead > self.max_skew_ms).then_some(ahead)
    }

    /// Reserves no further than the last stamp made, for a clean stop.
    pub fn release(&self) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.ceiling_ms = last.wall_ms + 1;
        self.store.reserve(last.ceiling_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Default)]
    struct Kept(AtomicU64);
    impl StampStore for Kept {
        fn reserve(&self, ceiling_ms: u64) {
            self.0.store(ceiling_ms, Ordering::SeqCst);
        }
    }

    proptest! {
        #[test]
        fn stamps_only_go_up_whatever_the_wall_clock_does_and_across_restarts(
            steps in proptest::collection::vec((0i64..2_000_000, any::<bool>()), 1..80)
        ) {
            let (wall, kept) = (Arc::new(MockClock::default()), Arc::new(Kept::default()));
            let start = || HybridClock::new(NodeId(7), kept.0.load(Ordering::SeqCst), 1_000, wall.clone(), kept.clone());
            let mut clock = start();
            let mut last = Hlc::ZERO;
            for (at, restart) in steps {
                wall.set(at);
                if restart { clock = start(); }
                let stamp = clock.stamp();
                prop_assert!(stamp > last);
                last = stamp;
            }
        }

        #[test]
        fn bytes_and_text_keep_the_order_and_the_value(
            a in (0u64..1 << 48, any::<u16>(), any::<u64>()), b in (0u64..1 << 48, any::<u16>(), any::<u64>())
        ) {
            let make = |(wall_ms, counter, node)| Hlc { wall_ms, counter, node: NodeId(node) };
            let (a, b) = (make(a), make(b));
            prop_assert_eq!(a.cmp(&b), a.to_bytes().cmp(&b.to_bytes()));
            prop_assert_eq!(Hlc::from_bytes(a.to_bytes()), a);
            prop_assert_eq!(a.to_string().parse::<Hlc>().unwrap(), a);
        }

        #[test]
        fn a_stamp_is_later_than_any_observed_one(wall_ms in 0u64..1 << 47, counter in any::<u16>(), node in any::<u64>()) {
            let clock = HybridClock::new(NodeId(7), 0, 1_000, Arc::new(MockClock::default()), Arc::new(Kept::default()));
            let seen = Hlc { wall_ms, counter, node: NodeId(node) };
            let skew = clock.observe(seen);
            prop_assert_eq!(skew.is_some(), wall_ms > 1_000);
            prop_assert!(clock.stamp() > seen);
        }

        #[test]
        fn timestamps_survive_their_text(millis in 0i64..=Timestamp::MAX.millis()) {
            let at = Timestamp::from_millis(millis);
            prop_assert_eq!(Timestamp::parse(&at.to_string()), Some(at));
        }
    }

    #[test]
    fn a_clock_that_is_ahead_still_gives_each_stamp_a_time_of_its_own() {
        let clock = HybridClock::new(
            NodeId(1),
            1_000,
            1_000,
            Arc::new(MockClock::at(400)),
            Arc::new(()),
        );
        let times: Vec<_> = (0..3).map(|_| clock.stamp().wall_ms).collect();
        assert_eq!(times, [1_001, 1_002, 1_003]);
    }

    #[test]
    fn a_full_counter_moves_to_the_next_millisecond() {
        let clock = HybridClock::new(
            NodeId(1),
            5,
            1_000,
            Arc::new(MockClock::default()),
            Arc::new(Kept::default()),
        );
        clock.observe(Hlc {
            wall_ms: 5,
            counter: u16::MAX,
            node: NodeId(9),
        });
        assert_eq!(
            clock.stamp(),
            Hlc {
                wall_ms: 6,
                counter: 0,
                node: NodeId(1)
            }
        );
    }

    #[test]
    fn timestamps_show_milliseconds_in_utc() {
        assert_eq!(
            Timestamp::from_millis(1_700_000_000_007).to_string(),
            "2023-11-14T22:13:20.007Z"
        );
        assert_eq!(
            Timestamp::parse("2023-11-14T23:13:20.0079+01:00"),
            Some(Timestamp::from_millis(1_700_000_000_007))
        );
        assert_eq!(Timestamp::parse("yesterday"), None);
    }
}
