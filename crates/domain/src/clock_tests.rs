//! Stamps go up whatever happens, and never leave what is durable.

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
    fn no_stamp_is_ever_beyond_what_is_durable(
        steps in proptest::collection::vec((0i64..1_500, -100i64..2_000, 0u8..8), 1..120)
    ) {
        let (wall, kept) = (Arc::new(MockClock::default()), Arc::new(Kept::default()));
        let start = || HybridClock::new(NodeId(7), kept.0.load(Ordering::SeqCst), 1_000, wall.clone(), kept.clone());
        let mut clock = start();
        let (mut last, mut at) = (Hlc::ZERO, 0);
        for (seen, pass, step) in steps {
            at += pass;
            wall.set(at);
            match step {
                0 => clock = start(),
                1 => clock.release(),
                2 => {
                    let wall_ms = u64::try_from(at.max(0) + seen).unwrap();
                    clock.observe(Hlc { wall_ms, counter: 7, node: NodeId(9) });
                }
                3 | 4 => {
                    clock.reserve_ahead();
                    prop_assert!(!clock.wants_reservation());
                }
                _ => {
                    let stamp = clock.stamp();
                    prop_assert!(stamp > last);
                    prop_assert!(stamp.wall_ms < kept.0.load(Ordering::SeqCst));
                    last = stamp;
                }
            }
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

fn clock(at: i64, store: Arc<dyn StampStore>) -> (Arc<MockClock>, Arc<HybridClock>) {
    let wall = Arc::new(MockClock::at(at));
    let clock = HybridClock::new(NodeId(1), 0, 1_000, wall.clone(), store);
    (wall, Arc::new(clock))
}

#[test]
fn a_clock_in_use_that_is_reserved_ahead_never_writes_while_it_stamps() {
    let kept = Arc::new(Kept::default());
    let (wall, clock) = clock(10_000, kept.clone());
    clock.stamp();
    let mut ceilings = std::collections::BTreeSet::new();
    for step in 0..100 {
        wall.set(10_000 + 100 * step);
        let before = kept.0.load(Ordering::SeqCst);
        clock.stamp();
        assert_eq!(kept.0.load(Ordering::SeqCst), before, "at step {step}");
        if step % 2 == 0 {
            clock.reserve_ahead();
        }
        ceilings.insert(kept.0.load(Ordering::SeqCst));
    }
    assert!(ceilings.len() <= 21, "{} writes in ten seconds", ceilings.len());
}

#[test]
fn a_clock_that_rests_reserves_nothing_and_neither_does_one_that_was_released() {
    let kept = Arc::new(Kept::default());
    let (wall, clock) = clock(10_000, kept.clone());
    assert!(!clock.wants_reservation());
    clock.stamp();
    wall.set(69_000);
    assert!(clock.wants_reservation());
    wall.set(71_000);
    clock.reserve_ahead();
    assert_eq!(kept.0.load(Ordering::SeqCst), 11_000);
    clock.stamp();
    wall.set(71_900);
    clock.release();
    clock.reserve_ahead();
    assert_eq!(kept.0.load(Ordering::SeqCst), 71_001);
}

/// Writes only when it is let.
struct Slow {
    begun: Mutex<std::sync::mpsc::Sender<()>>,
    go_on: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl StampStore for Slow {
    fn reserve(&self, _ceiling_ms: u64) {
        self.begun.lock().unwrap().send(()).unwrap();
        self.go_on.lock().unwrap().recv().unwrap();
    }
}

#[test]
fn stamps_go_on_while_the_next_range_is_reserved_and_end_where_the_present_one_does() {
    use std::sync::mpsc::channel;
    use std::time::Duration;
    let ((begun, has_begun), (let_go, go_on)) = (channel(), channel());
    let store = Slow {
        begun: Mutex::new(begun),
        go_on: Mutex::new(go_on),
    };
    let (wall, clock) = clock(10_000, Arc::new(store));
    let_go.send(()).unwrap();
    assert_eq!(clock.stamp().wall_ms, 10_000);
    has_begun.recv().unwrap();

    wall.set(10_600);
    let ahead = Arc::clone(&clock);
    let ahead = std::thread::spawn(move || ahead.reserve_ahead());
    has_begun.recv().unwrap();
    let (stamps, stamped) = channel();
    let maker = Arc::clone(&clock);
    let maker_wall = Arc::clone(&wall);
    let maker = std::thread::spawn(move || {
        for at in [10_700, 10_999, 11_000] {
            maker_wall.set(at);
            stamps.send(maker.stamp().wall_ms).unwrap();
        }
    });
    let patience = Duration::from_secs(5);
    assert_eq!(stamped.recv_timeout(patience), Ok(10_700));
    assert_eq!(stamped.recv_timeout(patience), Ok(10_999));
    assert!(stamped.recv_timeout(Duration::from_millis(50)).is_err());
    let_go.send(()).unwrap();
    assert_eq!(stamped.recv_timeout(patience), Ok(11_000));
    ahead.join().unwrap();
    maker.join().unwrap();
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
