//! `gravity-load chat`: sockets on two nodes, idle and talking, while Postgres dies and while a node does.
//!
//! Open loop: a message is meant to be sent at a time of its own, and every latency is counted from then. Users talk in
//! pairs, the first of each on one node and the second on the other, unless all are put on one. Each message is followed
//! to its end: delivered, in the receiver's log once, acknowledged as stored once.

mod socket;
mod tally;
mod world;

use crate::report::Report;
use gravity_test_support::services::{Postgres, PostgresOptions, Redis};
use socket::{Socket, Welcome};
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tally::{Balance, Tally};
use uuid::Uuid;
use world::{Server, World};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// How many sockets are opened at once.
const OPENING: usize = 64;
/// Until those who left are known to have left (15 s of grace), and all has been told of it.
const DEPARTED: Duration = Duration::from_secs(25);
/// Until what is loaded for those who have come is there.
const ARRIVED: Duration = Duration::from_secs(5);
/// How long what is under way may take to settle.
const PATIENCE: Duration = Duration::from_secs(60);
/// Seconds of an exchange before its latencies count.
const WARM_UP: u64 = 1;

pub(crate) struct Plan {
    pub(crate) server: PathBuf,
    /// Seconds of each exchange.
    pub(crate) seconds: u64,
    /// Sockets that sit idle on one node.
    pub(crate) idle: usize,
    /// Sockets that talk.
    pub(crate) talking: usize,
    /// Messages a second, all in all.
    pub(crate) rate: u32,
    /// Messages a second for the acknowledgements, with Postgres and without.
    pub(crate) ack_rate: u32,
    /// Bytes of a message's text.
    pub(crate) payload: usize,
    /// Sockets of each receiver.
    pub(crate) devices: usize,
}

pub(crate) fn run(plan: &Plan) -> Outcome {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?
        .block_on(all(plan))
}

async fn all(plan: &Plan) -> Outcome {
    let postgres = Postgres::launch(PostgresOptions {
        fsync: true,
        ..PostgresOptions::default()
    })?;
    let redis = Redis::start_private()?;
    let users = plan.idle.max(plan.talking);
    let mut world = World::start(&plan.server, &postgres, &redis, users).await?;
    let mut report = Report::default();
    idle(plan, &world, &mut report).await?;
    tokio::time::sleep(DEPARTED).await;
    for (across, turns, place, goal) in [
        (false, Turns::Answers, "on one node", "p99 < 50 ms"),
        (true, Turns::Answers, "across two nodes", "p99 < 50 ms"),
        (true, Turns::Crossing, "across two nodes, crossing", ""),
    ] {
        let talkers = Talkers::open(plan, &world, across).await?;
        let balance = talkers.exchange(plan, plan.rate, turns, plan.seconds).await;
        let seen = talkers.tally.seen();
        let title = format!(
            "{} sockets, {} messages/s, {place}: delivery",
            plan.talking, plan.rate
        );
        report.row(title, seen.delivery.shown(), goal);
        report.row(
            format!("{place}: what became of them"),
            balance.shown(),
            "none lost, none doubled",
        );
        report.row(format!("{place}: processor time"), talkers.shown_cpu(&world), "");
    }
    let talkers = Talkers::open(plan, &world, true).await?;
    let balance = talkers
        .exchange(plan, plan.ack_rate, Turns::Answers, plan.seconds)
        .await;
    let title = format!("`stored` ack at {}/s", plan.ack_rate);
    report.row(title, talkers.tally.seen().stored.shown(), "p99 < 25 ms");
    report.row(
        "stored: what became of them",
        balance.shown(),
        "none lost, none doubled",
    );
    dark(plan, &postgres, talkers, &mut report).await?;
    resumes(plan, &mut world, &mut report).await?;
    report.print();
    Ok(())
}

/// Sockets that do nothing: how fast they come, and what they cost.
async fn idle(plan: &Plan, world: &World, report: &mut Report) -> Outcome {
    let node = world.node(0);
    let before = node.memory_kib();
    let begun = Instant::now();
    let sockets = open_all(node, (0..plan.idle).collect(), world, None).await?;
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    let rate = sockets.len() as f64 / begun.elapsed().as_secs_f64();
    report.row(
        format!("opening {} sockets on one node", plan.idle),
        format!("{rate:.0}/s"),
        "",
    );
    // What their opening needed is given back by then, as far as it is.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let cpu = node.cpu();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let busy = (node.cpu() - cpu).as_secs_f64() / 5.0;
    let kib = node.memory_kib().saturating_sub(before) / sockets.len().max(1) as u64;
    report.row(
        format!("{} idle sockets: memory of the server for each", sockets.len()),
        format!("{kib} KiB; {:.1} % of one core", busy * 100.0),
        "≤ 12 KiB",
    );
    Ok(())
}

/// Opens a socket for each of these users, [`OPENING`] at a time.
async fn open_all(
    node: &Server,
    users: Vec<usize>,
    world: &World,
    tally: Option<&Arc<Tally>>,
) -> Outcome<Vec<Socket>> {
    let next = Arc::new(AtomicUsize::new(0));
    let users = Arc::new(users);
    let workers: Vec<_> = (0..OPENING)
        .map(|_| {
            let (next, users, tokens) = (Arc::clone(&next), Arc::clone(&users), Arc::clone(&world.tokens));
            let (address, tally) = (node.address, tally.cloned());
            tokio::spawn(async move {
                let mut opened = Vec::new();
                while let Some(&user) = users.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (socket, _) = Socket::open(address, &tokens[user], None, tally.clone()).await?;
                    opened.push((user, socket));
                }
                Ok::<_, Box<dyn Error + Send + Sync>>(opened)
            })
        })
        .collect();
    let mut sockets = Vec::with_capacity(users.len());
    for worker in workers {
        sockets.extend(worker.await?.map_err(|error| error.to_string())?);
    }
    sockets.sort_by_key(|(user, _)| *user);
    Ok(sockets.into_iter().map(|(_, socket)| socket).collect())
}

/// In which order everybody sends to their partner.
#[derive(Clone, Copy)]
enum Turns {
    /// One of every pair, then the others: an answer comes half a round later. Those who follow each other are on different nodes,
    /// where there are two.
    Answers,
    /// Both of a pair one right after the other: their messages meet in the conversation, whose places are given one by one.
    Crossing,
}

impl Turns {
    /// Who sends the nth message.
    fn speaker(self, nth: u64, users: usize) -> usize {
        let turn = usize::try_from(nth).unwrap_or(0) % users;
        let pairs = (users / 2).max(1);
        let (pair, is_answer) = (turn % pairs, turn >= pairs);
        match self {
            Self::Answers => pair * 2 + usize::from(is_answer != (pair % 2 == 1)),
            Self::Crossing => turn,
        }
    }
}

/// Users in pairs, and their sockets: of user 2n the first in its pair, of 2n + 1 the second.
struct Talkers {
    sockets: Vec<Socket>,
    /// More sockets of the receivers; they are read, and not in the tally.
    _devices: Vec<Socket>,
    tally: Arc<Tally>,
    cpu: Duration,
}

impl Talkers {
    async fn open(plan: &Plan, world: &World, across: bool) -> Outcome<Self> {
        let tally = Arc::new(Tally::new());
        let (first, second) = (world.node(0), world.node(usize::from(across)));
        let of = |side| {
            (0..plan.talking)
                .filter(move |user| user % 2 == side)
                .collect::<Vec<_>>()
        };
        let evens = open_all(first, of(0), world, Some(&tally)).await?;
        let odds = open_all(second, of(1), world, Some(&tally)).await?;
        let mut devices = Vec::new();
        for _ in 1..plan.devices {
            devices.extend(open_all(first, (0..plan.talking).collect(), world, None).await?);
        }
        let sockets = evens.into_iter().zip(odds).flat_map(|(even, odd)| [even, odd]);
        tokio::time::sleep(ARRIVED).await;
        Ok(Self {
            sockets: sockets.collect(),
            _devices: devices,
            tally,
            cpu: world.cpu(),
        })
    }

    /// Everybody in turn sends to their partner, `rate` a second for `seconds`; then all is left to settle. Latencies count after
    /// [`WARM_UP`] seconds of the same: in the first one, sessions of Postgres plan what they will repeat.
    async fn exchange(&self, plan: &Plan, rate: u32, turns: Turns, seconds: u64) -> Balance {
        self.talk(plan, rate, turns, WARM_UP).await;
        self.tally.forget_latencies();
        self.talk(plan, rate, turns, seconds).await;
        self.tally.settled(PATIENCE).await
    }

    async fn talk(&self, plan: &Plan, rate: u32, turns: Turns, seconds: u64) {
        let content = "x".repeat(plan.payload.clamp(1, 4_000));
        let start = Instant::now() + Duration::from_millis(50);
        let messages = u64::from(rate) * seconds;
        for n in 0..messages {
            let meant = start + Duration::from_secs_f64(n as f64 / f64::from(rate));
            tokio::time::sleep_until(meant.into()).await;
            let user = turns.speaker(n, self.sockets.len());
            let id = Uuid::now_v7();
            self.tally.sending(id, meant);
            self.sockets[user]
                .send(world::conversation(user), id, &content)
                .await;
        }
    }

    fn shown_cpu(&self, world: &World) -> String {
        format!("{:.1} s of both nodes", (world.cpu() - self.cpu).as_secs_f64())
    }
}

/// Postgres is killed, everybody goes on talking, and it comes back.
async fn dark(plan: &Plan, postgres: &Postgres, talkers: Talkers, report: &mut Report) -> Outcome {
    postgres.kill();
    talkers
        .talk(plan, plan.ack_rate, Turns::Answers, plan.seconds)
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let title = format!("`accepted` ack at {}/s, Postgres killed", plan.ack_rate);
    report.row(title, talkers.tally.seen().accepted.shown(), "p99 < 25 ms");
    let begun = Instant::now();
    postgres.start()?;
    let balance = talkers.tally.settled(PATIENCE).await;
    report.row(
        "Postgres killed and started again: what became of them",
        format!(
            "{}; settled {:.1} s after the start",
            balance.shown(),
            begun.elapsed().as_secs_f64()
        ),
        "none lost, none doubled",
    );
    Ok(())
}

/// A node is killed while its users are written to, started again, and all of them resume.
async fn resumes(plan: &Plan, world: &mut World, report: &mut Report) -> Outcome {
    let talkers = Talkers::open(plan, world, true).await?;
    talkers.talk(plan, plan.ack_rate, Turns::Answers, 2).await;
    talkers.tally.settled(PATIENCE).await;
    let idle: Vec<usize> = (plan.talking..plan.idle).collect();
    let idle_sockets = open_all(world.node(0), idle.clone(), world, None).await?;
    let mut gone: Vec<(usize, Option<String>)> = idle
        .into_iter()
        .zip(idle_sockets.iter().map(Socket::cursor))
        .collect();
    world.kill(0);
    // The second of each pair writes to the first, who is away.
    let away: Vec<usize> = (0..plan.talking).step_by(2).collect();
    for user in &away {
        let id = Uuid::now_v7();
        talkers.tally.sending(id, Instant::now());
        talkers.sockets[user + 1]
            .send(world::conversation(*user), id, "while you were away")
            .await;
    }
    gone.extend(away.iter().map(|user| (*user, talkers.sockets[*user].cursor())));
    drop(idle_sockets);
    world.restart(0).await?;
    let begun = Instant::now();
    let (resumed, verdicts) = resume_all(world, gone, &talkers.tally).await?;
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    let rate = resumed.len() as f64 / begun.elapsed().as_secs_f64();
    let balance = talkers.tally.settled(PATIENCE).await;
    report.row(
        format!(
            "{} sockets resume after their node was killed and started again",
            resumed.len()
        ),
        format!("{rate:.0}/s; {verdicts}"),
        "≥ 2,000/s",
    );
    report.row(
        "resumed: what became of the messages",
        balance.shown(),
        "none lost, none doubled",
    );
    let over = resumed.iter().filter(|socket| socket.is_over()).count();
    if over > 0 {
        report.row("sockets that ended meanwhile", over.to_string(), "0");
    }
    Ok(())
}

async fn resume_all(
    world: &World,
    gone: Vec<(usize, Option<String>)>,
    tally: &Arc<Tally>,
) -> Outcome<(Vec<Socket>, String)> {
    let (next, gone) = (Arc::new(AtomicUsize::new(0)), Arc::new(gone));
    let workers: Vec<_> = (0..OPENING)
        .map(|_| {
            let (next, gone, tokens) = (Arc::clone(&next), Arc::clone(&gone), Arc::clone(&world.tokens));
            let (address, tally) = (world.node(0).address, Arc::clone(tally));
            tokio::spawn(async move {
                let mut opened = Vec::new();
                while let Some((user, cursor)) = gone.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let tally = Some(Arc::clone(&tally));
                    opened.push(Socket::open(address, &tokens[*user], cursor.as_deref(), tally).await?);
                }
                Ok::<_, Box<dyn Error + Send + Sync>>(opened)
            })
        })
        .collect();
    let mut verdicts = std::collections::BTreeMap::<String, usize>::new();
    let mut sockets = Vec::new();
    for worker in workers {
        for (socket, Welcome(verdict)) in worker.await?.map_err(|error| error.to_string())? {
            *verdicts.entry(verdict).or_default() += 1;
            sockets.push(socket);
        }
    }
    let shown: Vec<_> = verdicts
        .iter()
        .map(|(verdict, count)| format!("{count} × {verdict}"))
        .collect();
    Ok((sockets, shown.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_round_everybody_sends_once_and_answers_come_half_a_round_later() {
        for turns in [Turns::Answers, Turns::Crossing] {
            let mut speakers: Vec<_> = (20..30).map(|nth| turns.speaker(nth, 10)).collect();
            speakers.sort_unstable();
            assert!(speakers.into_iter().eq(0..10));
        }
        let answers: Vec<_> = (0..8).map(|nth| Turns::Answers.speaker(nth, 8)).collect();
        assert_eq!(answers, [0, 3, 4, 7, 1, 2, 5, 6]);
    }
}
