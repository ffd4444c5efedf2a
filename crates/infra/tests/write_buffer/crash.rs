//! A process that appends, drains and buries is killed in the middle of it, again and again, on one directory.
//!
//! The child is this very test binary, started for the one test [`child`] with its orders in the environment. It tells
//! on its standard output what it found when it opened the buffer, what it was acknowledged, and what it was about to
//! remove; the parent compares that with all it has heard since the beginning.

use crate::home::{settings, task, update, user};
use gravity_domain::clock::SystemClock;
use gravity_domain::id::OperationId;
use gravity_domain::sync::ports::{DeadLetters, DrainBuffer, WriteBuffer};
use gravity_infra::write_buffer::{BufferEngine, DurableBuffer};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const ORDERS: &str = "GRAVITY_TEST_BUFFER_CHILD";
const ROUNDS: &str = "GRAVITY_TEST_CRASH_ROUNDS";
const LANES: u64 = 8;

fn tell(word: &str, n: u64) {
    writeln!(std::io::stdout().lock(), "{word} {n}").unwrap();
}

fn number(id: OperationId) -> u64 {
    (id.0.as_u128() - 0xCC00_0000) as u64
}

/// Does nothing unless it was started by [`rounds`].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some(orders) = std::env::var_os(ORDERS) else {
        return;
    };
    let orders = orders.into_string().unwrap();
    let [path, engine, start, drains] = orders.split('|').collect::<Vec<_>>()[..] else {
        panic!()
    };
    let engine = if engine == "sled" {
        BufferEngine::Sled
    } else {
        BufferEngine::Redb
    };
    let start: u64 = start.parse().unwrap();
    let buffer = DurableBuffer::open(settings(Path::new(path), engine), Arc::new(SystemClock));
    assert!(buffer.wait_until_open(Duration::from_secs(60)).await);
    tell_what_is_there(&buffer).await;
    tell("open", buffer.status().size);
    for lane in 0..LANES {
        let buffer = buffer.clone();
        tokio::spawn(async move {
            for n in (start + lane..).step_by(LANES as usize) {
                buffer
                    .append(update(user(u128::from(lane)), task(1), n))
                    .await
                    .unwrap();
                tell("acknowledged", n);
            }
        });
    }
    if drains == "true" {
        drain_forever(&buffer).await;
    }
    std::future::pending::<()>().await;
}

async fn tell_what_is_there(buffer: &DurableBuffer) {
    let mut after = None;
    loop {
        let batch = buffer.peek(after, 500).await.unwrap();
        let Some(last) = batch.last() else { break };
        after = Some(last.parcel);
        batch
            .into_iter()
            .for_each(|entry| tell("waits", number(entry.operation.unwrap().id)));
    }
    for lane in 0..LANES {
        tell("lane", buffer.lane_length(user(u128::from(lane))).await.unwrap());
    }
    let mut after = None;
    loop {
        let letters = buffer.list(after, 500).await.unwrap();
        let Some(last) = letters.last() else { return };
        after = Some(last.id);
        letters.iter().for_each(|letter| tell("dead", number(letter.id)));
    }
}

async fn drain_forever(buffer: &DurableBuffer) {
    loop {
        let batch = buffer.peek(None, 40).await.unwrap();
        let (parcels, numbers): (Vec<_>, Vec<_>) = batch
            .iter()
            .map(|entry| (entry.parcel, number(entry.operation.as_ref().unwrap().id)))
            .unzip();
        numbers.iter().for_each(|n| tell("leaving", *n));
        if let [first, rest @ ..] = &parcels[..] {
            buffer.bury(*first, 1, "rejected: test".into()).await.unwrap();
            tell("buried", numbers[0]);
            buffer.remove(rest.to_vec()).await.unwrap();
            numbers[1..].iter().for_each(|n| tell("removed", *n));
        }
    }
}

/// All that was ever heard from the children.
#[derive(Default)]
struct Heard {
    acknowledged: BTreeSet<u64>,
    leaving: BTreeSet<u64>,
    removed: BTreeSet<u64>,
    buried: BTreeSet<u64>,
    opened: u32,
}

impl Heard {
    fn take(&mut self, lines: &[(String, u64)]) {
        let of = |word: &str| -> Vec<u64> { lines.iter().filter(|it| it.0 == word).map(|it| it.1).collect() };
        if let [size] = of("open")[..] {
            self.opened += 1;
            self.compare(size, &of("waits"), &of("lane"), &of("dead"));
        }
        self.acknowledged.extend(of("acknowledged"));
        self.leaving.extend(of("leaving"));
        self.removed.extend(of("removed"));
        self.buried.extend(of("buried"));
    }

    fn compare(&self, size: u64, waits: &[u64], lanes: &[u64], dead: &[u64]) {
        let (there, dead): (BTreeSet<_>, BTreeSet<_>) = (waits.iter().collect(), dead.iter().collect());
        let missing: Vec<_> = self
            .acknowledged
            .difference(&self.leaving)
            .filter(|n| !there.contains(n))
            .collect();
        assert!(missing.is_empty(), "acknowledged and missing: {missing:?}");
        let back: Vec<_> = self.removed.iter().filter(|n| there.contains(n)).collect();
        assert!(back.is_empty(), "removed and back: {back:?}");
        let lost: Vec<_> = self
            .buried
            .iter()
            .filter(|n| !dead.contains(n) || there.contains(n))
            .collect();
        assert!(lost.is_empty(), "buried and not among the dead: {lost:?}");
        assert_eq!((size, there.len()), (waits.len() as u64, waits.len()));
        for lane in 0..LANES {
            let of: Vec<_> = waits.iter().filter(|n| *n % LANES == lane).collect();
            assert!(of.is_sorted(), "a lane is out of order");
            assert_eq!(of.len() as u64, lanes[lane as usize]);
        }
    }
}

fn start(path: &Path, engine: BufferEngine, start: u64, drains: bool) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child", "--nocapture"])
        .env(
            ORDERS,
            format!("{}|{}|{start}|{drains}", path.display(), engine.as_str()),
        )
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Lets a child run until it is killed: a while after it was started, or a while after it has opened the buffer.
fn live_and_die(mut child: Child, while_opening: bool, wait: Duration) -> Vec<(String, u64)> {
    let output = child.stdout.take().unwrap();
    let (opened, is_open) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut lines = Vec::new();
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if let Some((word, n)) = line.rsplit_once(' ')
                && let (Ok(n), false) = (n.parse(), word.contains(' '))
            {
                if word == "open" {
                    let _ = opened.send(());
                }
                lines.push((word.to_owned(), n));
            }
        }
        lines
    });
    if !while_opening {
        is_open
            .recv_timeout(Duration::from_secs(60))
            .expect("the child opens the buffer");
    }
    let (_keep, never) = std::sync::mpsc::channel::<()>();
    let _ = never.recv_timeout(wait);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

fn rounds(engine: BufferEngine) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("buffer");
    let number = std::env::var_os(ROUNDS).map_or(24, |text| text.to_str().unwrap().parse().unwrap());
    let mut heard = Heard::default();
    for round in 0..number {
        let store = path.join("store-sled");
        if round % 5 == 4 && store.exists() {
            std::fs::write(store.join("snap.0123456789ABCDEF.generating"), b"half a snapshot").unwrap();
        }
        let (while_opening, drains) = (round % 4 == 3, round % 3 != 0);
        let wait = Duration::from_millis(rand::random_range(if while_opening { 1..60 } else { 10..200 }));
        let child = start(&path, engine, (round + 1) * 1_000_000, drains);
        heard.take(&live_and_die(child, while_opening, wait));
    }
    let child = start(&path, engine, (number + 1) * 1_000_000, false);
    heard.take(&live_and_die(child, false, Duration::ZERO));
    assert!(
        u64::from(heard.opened) >= number * 3 / 4
            && heard.acknowledged.len() > 100
            && !heard.removed.is_empty()
    );
    assert!(
        std::fs::read_dir(&path)
            .unwrap()
            .all(|it| !it.unwrap().path().to_string_lossy().contains("damaged"))
    );
}

#[test]
fn nothing_acknowledged_is_missing_from_sled_after_kills() {
    rounds(BufferEngine::Sled);
}

#[test]
fn nothing_acknowledged_is_missing_from_redb_after_kills() {
    rounds(BufferEngine::Redb);
}
