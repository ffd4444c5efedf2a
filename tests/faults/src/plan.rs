//! What a schedule does and when: derived from (seed, index) alone.

use crate::random::Random;

/// A kind of schedule: the fault it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Postgres killed and restarted.
    PostgresKill,
    /// Postgres stopped with SIGSTOP and continued.
    PostgresPause,
    /// Connections to Postgres cut, refused, swallowed.
    PostgresCut,
    /// Connections cut before, during and after a commit.
    PostgresCommit,
    /// No connection to be had.
    PostgresConnections,
    /// Read-only, as after a failover.
    PostgresReadOnly,
    /// Killed again in the middle of a drain.
    PostgresDrain,
    /// Redis killed and restarted.
    RedisKill,
    /// Redis stopped with SIGSTOP and continued.
    RedisPause,
    /// Connections to Redis cut, refused, swallowed.
    RedisCut,
    /// The server killed while accepting.
    ServerKill,
    /// The server killed while draining.
    ServerKillDraining,
    /// SIGTERM under load.
    ServerTerm,
    /// The buffer's disk, or the buffer, full.
    DiskFull,
    /// The buffer's files truncated, or with flipped bytes.
    Damage,
    /// The buffer in use by another process at the start.
    Locked,
    /// Clients that retry and give up; a slow Postgres.
    Clients,
    /// Two nodes on one Postgres.
    TwoNodes,
    /// Several of these in a row.
    Mixed,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 19] = [
        Self::PostgresKill,
        Self::ServerKillDraining,
        Self::PostgresCommit,
        Self::TwoNodes,
        Self::Damage,
        Self::PostgresPause,
        Self::DiskFull,
        Self::Mixed,
        Self::Locked,
        Self::PostgresCut,
        Self::PostgresConnections,
        Self::PostgresReadOnly,
        Self::PostgresDrain,
        Self::RedisKill,
        Self::RedisPause,
        Self::RedisCut,
        Self::ServerKill,
        Self::ServerTerm,
        Self::Clients,
    ];

    /// What runs cycle through: the hard ones more often.
    const CYCLE: [Self; 23] = [
        Self::Mixed,
        Self::PostgresKill,
        Self::ServerKillDraining,
        Self::PostgresCommit,
        Self::TwoNodes,
        Self::Damage,
        Self::PostgresPause,
        Self::DiskFull,
        Self::Mixed,
        Self::Locked,
        Self::PostgresCut,
        Self::PostgresConnections,
        Self::TwoNodes,
        Self::PostgresReadOnly,
        Self::PostgresDrain,
        Self::RedisKill,
        Self::ServerKill,
        Self::Mixed,
        Self::ServerTerm,
        Self::RedisPause,
        Self::PostgresCommit,
        Self::Clients,
        Self::RedisCut,
    ];

    /// The name for `--only`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PostgresKill => "postgres_kill",
            Self::PostgresPause => "postgres_pause",
            Self::PostgresCut => "postgres_cut",
            Self::PostgresCommit => "postgres_commit",
            Self::PostgresConnections => "postgres_connections",
            Self::PostgresReadOnly => "postgres_read_only",
            Self::PostgresDrain => "postgres_drain",
            Self::RedisKill => "redis_kill",
            Self::RedisPause => "redis_pause",
            Self::RedisCut => "redis_cut",
            Self::ServerKill => "server_kill",
            Self::ServerKillDraining => "server_kill_draining",
            Self::ServerTerm => "server_term",
            Self::DiskFull => "disk_full",
            Self::Damage => "damage",
            Self::Locked => "locked",
            Self::Clients => "clients",
            Self::TwoNodes => "two_nodes",
            Self::Mixed => "mixed",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether Postgres is left alone, so that nothing may be buffered.
    pub(crate) fn leaves_postgres_alone(self) -> bool {
        matches!(self, Self::RedisKill | Self::RedisPause | Self::RedisCut)
    }

    /// Whether writes must have been accepted while Postgres was away.
    pub(crate) fn must_buffer(self) -> bool {
        matches!(
            self,
            Self::PostgresKill
                | Self::PostgresPause
                | Self::PostgresDrain
                | Self::PostgresReadOnly
                | Self::PostgresConnections
                | Self::ServerKillDraining
                | Self::Damage
                | Self::TwoNodes
        )
    }
}

/// A store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Postgres,
    Redis,
}

/// Where a commit is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    During,
    After,
}

/// What is done at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Kill(Store),
    Start(Store),
    Pause(Store),
    Resume(Store),
    Cut(Store),
    Refuse(Store),
    BlackHole(Store),
    Pass(Store),
    /// Milliseconds for each chunk on its way to and from Postgres.
    Slow(u64),
    /// The next direct write.
    CutWrite(Moment),
    /// The next COMMIT of the drain.
    CutCommit(Moment),
    Connections(bool),
    Writable(bool),
    KillServer(usize),
    StartServer(usize),
    TermServer(usize),
    FillDisk,
    FreeDisk,
    /// Spoils a file of a dead server's buffer; the number says which and how.
    Damage(usize, u64),
    /// Starts another server on the node's buffer.
    Intrude(usize),
    Evict,
}

/// An act and its time in milliseconds since the users began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) at: u64,
    pub(crate) act: Act,
}

/// A schedule.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(crate) seed: u64,
    pub(crate) index: u64,
    pub(crate) kind: Kind,
    pub(crate) engine: &'static str,
    pub(crate) nodes: usize,
    pub(crate) users: usize,
    /// How long users are at it, in milliseconds.
    pub(crate) length: u64,
    pub(crate) steps: Vec<Step>,
    /// In percent of the requests.
    pub(crate) give_up: u64,
    pub(crate) batch_size: u64,
    pub(crate) write_deadline_ms: u64,
    pub(crate) buffer_max_size: Option<u64>,
    /// The buffer lies on a small file system of its own, where we may mount one.
    pub(crate) small_disk: bool,
}

impl Plan {
    /// The schedule of this seed and index, of the kind that is its turn among `kinds`, or among all when that is empty.
    #[must_use]
    pub fn new(seed: u64, index: u64, kinds: &[Kind]) -> Self {
        let mut random = Random::of(&[seed, index, 1]);
        let kinds = if kinds.is_empty() { &Kind::CYCLE } else { kinds };
        let kind = kinds[usize::try_from(index).unwrap_or(0) % kinds.len()];
        let tight = kind == Kind::DiskFull;
        let small_disk = tight && random.chance(60);
        let mut plan = Self {
            seed,
            index,
            kind,
            engine: random.pick(&["sled", "sled", "redb"]),
            nodes: if kind == Kind::TwoNodes { 2 } else { 1 },
            users: usize::try_from(random.between(4, 8)).unwrap_or(4),
            length: random.between(2_600, 3_300),
            steps: Vec::new(),
            give_up: if kind == Kind::Clients { 25 } else { 3 },
            batch_size: random.pick(&[3, 20, 500]),
            write_deadline_ms: match random.pick(&[300, 1_000]) {
                // Nothing may be buffered here: a short deadline would let every stall of a busy machine do so.
                _ if kind.leaves_postgres_alone() => 1_000,
                deadline => deadline,
            },
            buffer_max_size: (tight && !small_disk).then(|| random.between(10, 60)),
            small_disk,
        };
        plan.fill(&mut random);
        plan.steps.sort_by_key(|step| step.at);
        plan
    }

    /// Another stream of the same schedule.
    pub(crate) fn random(&self, stream: u64) -> Random {
        Random::of(&[self.seed, self.index, 2, stream])
    }

    fn add(&mut self, at: u64, act: Act) {
        self.steps.push(Step { at, act });
    }

    fn window(&mut self, from: u64, to: u64, begin: Act, end: Act) {
        self.add(from, begin);
        self.add(to, end);
    }

    fn fill(&mut self, random: &mut Random) {
        let start = random.between(300, 600);
        let last = self.length - 500;
        match self.kind {
            Kind::TwoNodes => {
                self.outages(random, start, last);
                self.server_kills(random, start, last);
            }
            Kind::Mixed => {
                self.outages(random, start, last);
                self.redis_outage(random, start);
                if random.chance(60) {
                    self.server_kills(random, start, last);
                }
            }
            Kind::RedisKill => self.window(
                start,
                start + 900,
                Act::Kill(Store::Redis),
                Act::Start(Store::Redis),
            ),
            Kind::RedisPause => {
                self.window(
                    start,
                    start + 1_500,
                    Act::Pause(Store::Redis),
                    Act::Resume(Store::Redis),
                );
            }
            Kind::RedisCut => self.cuts(random, Store::Redis, start, last),
            Kind::PostgresCut => self.cuts(random, Store::Postgres, start, last),
            Kind::PostgresCommit => self.commits(random, start, last),
            Kind::PostgresDrain => self.killed_drains(random, start, last),
            Kind::ServerKill => {
                if random.chance(50) {
                    self.window(
                        start,
                        last,
                        Act::Kill(Store::Postgres),
                        Act::Start(Store::Postgres),
                    );
                }
                self.server_kills(random, start, last);
                self.server_kills(random, start, last);
            }
            Kind::ServerKillDraining => self.kills_while_draining(random, start, last),
            Kind::ServerTerm => self.terms(random, start, last),
            Kind::DiskFull => self.disk_full(random, start, last),
            Kind::Damage => self.damage(random, start),
            Kind::Locked => self.locked(random, start),
            Kind::Clients => {
                self.add(0, Act::Slow(random.between(2, 25)));
                self.server_kills(random, start, last);
            }
            kind => {
                let to = random.between(start + 700, last);
                self.postgres_window(random, kind, start, to);
            }
        }
    }

    /// One outage of Postgres of this kind; when it ends.
    fn postgres_window(&mut self, random: &mut Random, kind: Kind, from: u64, to: u64) -> u64 {
        let postgres = Store::Postgres;
        match kind {
            Kind::PostgresKill => self.window(from, to, Act::Kill(postgres), Act::Start(postgres)),
            Kind::PostgresPause => {
                // Shorter than the deadline, it would be a slow answer, not an outage.
                let to = to.max(from + self.write_deadline_ms + 300);
                self.window(from, to, Act::Pause(postgres), Act::Resume(postgres));
                return to;
            }
            Kind::PostgresConnections => {
                self.window(from, to, Act::Connections(false), Act::Connections(true));
            }
            Kind::PostgresReadOnly => self.window(from, to, Act::Writable(false), Act::Writable(true)),
            Kind::PostgresCommit => self.commits(random, from, to),
            _ => self.cuts(random, postgres, from, to),
        }
        to
    }

    /// Outages of Postgres, one after another.
    fn outages(&mut self, random: &mut Random, from: u64, to: u64) {
        const KINDS: [Kind; 6] = [
            Kind::PostgresKill,
            Kind::PostgresPause,
            Kind::PostgresCut,
            Kind::PostgresCommit,
            Kind::PostgresConnections,
            Kind::PostgresReadOnly,
        ];
        let mut at = from;
        while at + 500 < to {
            let end = (at + random.between(400, 1_200)).min(to);
            let kind = random.pick(&KINDS);
            at = self.postgres_window(random, kind, at, end) + random.between(50, 500);
        }
    }

    fn redis_outage(&mut self, random: &mut Random, from: u64) {
        let to = from + random.between(200, 1_200);
        let redis = Store::Redis;
        match random.between(0, 3) {
            0 => self.window(from, to, Act::Kill(redis), Act::Start(redis)),
            1 => self.window(from, to, Act::Pause(redis), Act::Resume(redis)),
            _ => self.window(from, to, Act::Refuse(redis), Act::Pass(redis)),
        }
    }

    fn cuts(&mut self, random: &mut Random, store: Store, from: u64, to: u64) {
        let mut at = from;
        while at + 300 < to {
            match random.between(0, 4) {
                0 => {
                    let end = (at + random.between(200, 900)).min(to);
                    self.add(at, Act::Refuse(store));
                    self.window(at, end, Act::Cut(store), Act::Pass(store));
                    at = end;
                }
                1 => {
                    let end = (at + random.between(200, 1_300)).min(to);
                    self.window(at, end, Act::BlackHole(store), Act::Pass(store));
                    at = end;
                }
                _ => self.add(at, Act::Cut(store)),
            }
            at += random.between(60, 300);
        }
    }

    /// Commits cut before, during and after, of direct writes and of the drain.
    fn commits(&mut self, random: &mut Random, from: u64, to: u64) {
        let mut at = from;
        while at < to {
            let moment = random.pick(&[Moment::Before, Moment::During, Moment::After, Moment::After]);
            if random.chance(60) {
                self.add(at, Act::CutWrite(moment));
                at += random.between(40, 160);
                continue;
            }
            // Something must be buffered before there is a COMMIT of a batch.
            let end = at + random.between(60, 250);
            self.add(at, Act::Refuse(Store::Postgres));
            self.add(at, Act::Cut(Store::Postgres));
            self.add(end, Act::CutCommit(moment));
            self.add(end, Act::Pass(Store::Postgres));
            at = end + random.between(100, 400);
        }
        self.add(to.max(at), Act::Pass(Store::Postgres));
    }

    fn killed_drains(&mut self, random: &mut Random, from: u64, to: u64) {
        let mut at = from;
        let mut until = at + random.between(500, 900);
        while until < to {
            self.window(at, until, Act::Kill(Store::Postgres), Act::Start(Store::Postgres));
            at = until + random.between(20, 400);
            until = at + random.between(100, 300);
        }
    }

    fn server_kills(&mut self, random: &mut Random, from: u64, to: u64) {
        for node in 0..self.nodes {
            let mut at = from + random.between(0, 600);
            while at < to {
                let back = at + random.between(20, 300);
                self.window(at, back, Act::KillServer(node), Act::StartServer(node));
                at = back + random.between(400, 1_500);
            }
        }
    }

    fn kills_while_draining(&mut self, random: &mut Random, from: u64, to: u64) {
        let mut at = from;
        while at + 400 < to {
            let end = at + random.between(300, 700);
            self.add(at, Act::Refuse(Store::Postgres));
            self.window(at, end, Act::Cut(Store::Postgres), Act::Pass(Store::Postgres));
            for _ in 0..random.between(1, 3) {
                at = at.max(end) + random.between(5, 350);
                self.window(at, at + 30, Act::KillServer(0), Act::StartServer(0));
                at += 200;
            }
            at += random.between(100, 300);
        }
    }

    fn terms(&mut self, random: &mut Random, from: u64, to: u64) {
        if random.chance(50) {
            let end = random.between(from + 600, to);
            self.add(from, Act::Refuse(Store::Postgres));
            self.window(from, end, Act::Cut(Store::Postgres), Act::Pass(Store::Postgres));
        }
        self.add(from + random.between(200, 500), Act::TermServer(0));
        self.add(to - random.between(0, 200), Act::TermServer(0));
    }

    fn disk_full(&mut self, random: &mut Random, from: u64, to: u64) {
        let end = random.between(from + 1_200, to);
        self.add(from, Act::Refuse(Store::Postgres));
        self.window(from, end, Act::Cut(Store::Postgres), Act::Pass(Store::Postgres));
        let filled = from + random.between(0, 400);
        let freed = if random.chance(50) { end - 200 } else { end + 200 };
        self.window(filled, freed, Act::FillDisk, Act::FreeDisk);
        if random.chance(40) {
            let at = random.between(filled + 100, freed);
            self.window(at, at + 50, Act::KillServer(0), Act::StartServer(0));
        }
    }

    fn damage(&mut self, random: &mut Random, from: u64) {
        let postgres = Store::Postgres;
        let killed = from + random.between(500, 900);
        self.add(from, Act::Refuse(postgres));
        self.window(
            from,
            killed + random.between(200, 700),
            Act::Cut(postgres),
            Act::Pass(postgres),
        );
        self.add(killed, Act::KillServer(0));
        self.add(killed + 1, Act::Damage(0, random.next()));
        self.add(killed + 2, Act::StartServer(0));
    }

    fn locked(&mut self, random: &mut Random, from: u64) {
        let killed = from + random.between(300, 600);
        if random.chance(70) {
            self.add(from, Act::Refuse(Store::Postgres));
            let back = killed + random.between(200, 1_200);
            self.window(from, back, Act::Cut(Store::Postgres), Act::Pass(Store::Postgres));
        }
        self.add(killed, Act::KillServer(0));
        self.add(killed + 1, Act::Intrude(0));
        self.add(killed + 300, Act::StartServer(0));
        self.add(killed + 300 + random.between(200, 700), Act::Evict);
    }
}
