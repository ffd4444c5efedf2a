//! `gravity seed`: demonstration data, never meant for production.
//!
//! Eleven users: `demo` (password `demo-password-1`) has 25 tasks in all statuses, nine others have a few each, and `admin`
//! (password `admin-password-1`) is the administrator. `demo`, `ada` and `ben` have a stream of forty items. They talk in fifty
//! conversations of twenty messages. The passwords are public: only this command makes them,
//! and in environment `production` only when told so. Accounts are registered and operations applied through the same
//! ports that requests use. Every id is derived from a name, so a second run finds everything done.

mod chat;
mod stream;

use crate::config::Config;
use crate::migrations;
use gravity_domain::auth::{
    AccountStore, Email, NewAccount, Password, PasswordHasher, RegisterError, Username,
};
use gravity_domain::chat::ChatStore;
use gravity_domain::clock::{HybridClock, NodeId, StampStore, SystemClock};
use gravity_domain::error::StoreError;
use gravity_domain::id::{OperationId, TaskId, UserId};
use gravity_domain::page::PageKey;
use gravity_domain::profile::Name;
use gravity_domain::stream::StreamStore;
use gravity_domain::sync::ports::{Breaker, OperationStore, ReplayStore};
use gravity_domain::sync::{Applied, BatchError, Change, EntityState, Operation, Verdict};
use gravity_domain::task::{Description, NewTask, TaskChange, TaskFilter, TaskStatus, TaskStore, Title};
use gravity_infra::auth::{Argon2Hasher, HashSettings, PostgresAccounts};
use gravity_infra::chat::PostgresChat;
use gravity_infra::postgres::{self, Pool};
use gravity_infra::stream::{AllowList, PostgresStream};
use gravity_infra::sync::PostgresOperations;
use gravity_infra::task::PostgresTasks;
use std::fmt;
use std::sync::Arc;
use thiserror::Error;
use uuid::Uuid;

const NAMESPACE: Uuid = Uuid::from_u128(0x8b1f_5c1e_52b0_5e0e_9d5c_5f6f_0b0e_7a5e);
/// How many messages are stored at once.
const BATCH: usize = 100;
const TELL_NOBODY: &str = "DELETE FROM notification_jobs WHERE message_id = ANY ($1)";
const MAKE_ADMIN: &str = "UPDATE users SET role = 'admin' WHERE username = 'admin' AND role <> 'admin'";

/// `(username, password, name)`.
const PEOPLE: [(&str, &str, &str); 11] = [
    ("demo", "demo-password-1", "Demo"),
    ("ada", "ada-password-1", "Ada"),
    ("ben", "ben-password-1", "Ben"),
    ("chloe", "chloe-password-1", "Chloé"),
    ("dmitri", "dmitri-password-1", "Дмитрий"),
    ("emeka", "emeka-password-1", "Emeka"),
    ("fatima", "fatima-password-1", "فاطمة"),
    ("giulia", "giulia-password-1", "Giulia"),
    ("haruto", "haruto-password-1", "陽翔"),
    ("ines", "ines-password-1", "Inês"),
    ("admin", "admin-password-1", "Administrator"),
];

/// Those who have a stream.
const WITH_STREAM: [&str; 3] = ["demo", "ada", "ben"];

const TITLES: [&str; 25] = [
    "Water the plants",
    "Renew the passport",
    "Read the design of the write buffer",
    "Book a table for Friday",
    "Answer the letter from the tax office",
    "Fix the bicycle's rear light",
    "Prepare the talk on hybrid clocks",
    "Order more coffee",
    "Back up the photographs",
    "Call the landlord about the window",
    "Plan the hike",
    "Return the library books",
    "Write the minutes of Monday's meeting",
    "Try the new bakery",
    "Update the insurance",
    "Learn ten words of Portuguese",
    "Clean the bicycle chain",
    "Review the alert rules",
    "Find a present for Ines",
    "Sort the tools",
    "Test the restore of the backup",
    "Make marmalade",
    "Cancel the old subscription",
    "Repair the kitchen drawer",
    "Watch the eclipse",
];

/// Why there is no demonstration data, or not all of it.
#[derive(Debug, Error)]
pub enum SeedError {
    /// The environment is `production`, and nobody said that the passwords are meant to be public.
    #[error(
        "this would add users and an administrator whose passwords are public; with GRAVITY_ENV=production that needs --public-passwords"
    )]
    Production,
    /// The schema.
    #[error(transparent)]
    Migrate(#[from] migrations::RunError),
    /// Postgres.
    #[error("Postgres did not take the data; run it again")]
    Store(#[from] StoreError),
    /// Settings that cannot work.
    #[error(transparent)]
    Settings(#[from] postgres::SettingsError),
    /// A password could not be hashed.
    #[error("a password could not be hashed: {0}")]
    Hash(String),
    /// No runtime.
    #[error(transparent)]
    Runtime(#[from] std::io::Error),
    /// The streams are not as they must be.
    #[error(transparent)]
    Stream(#[from] stream::StreamError),
    /// Somebody else has one of the usernames.
    #[error("the username {0} belongs to somebody else")]
    Taken(&'static str),
}

/// What a run added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// New users.
    pub users: usize,
    /// New tasks.
    pub tasks: usize,
    /// New items of streams.
    pub items: usize,
    /// New conversations.
    pub conversations: usize,
    /// New messages of conversations.
    pub messages: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "added {} users, {} tasks, {} items of streams and {} messages in {} conversations; log in as demo with \
                demo-password-1, or as admin with admin-password-1",
            self.users, self.tasks, self.items, self.messages, self.conversations
        )
    }
}

/// Migrates, then adds what is missing. `public_passwords`: also in environment `production`.
///
/// # Errors
/// [`SeedError`]; it can be run again.
pub fn run(config: &Config, public_passwords: bool) -> Result<Report, SeedError> {
    if config.environment == "production" && !public_passwords {
        return Err(SeedError::Production);
    }
    let runtime = crate::runtime(2)?;
    let settings = config.database.settings();
    runtime.block_on(async {
        migrations::migrate(&settings, runtime.handle()).await?;
        let pool = Pool::new(&settings, runtime.handle().clone())?;
        let seeder = Seeder {
            accounts: PostgresAccounts::new(pool.clone(), Arc::new(AlwaysClosed)),
            operations: PostgresOperations::new(pool.clone()),
            tasks: PostgresTasks::new(pool.clone()),
            streams: PostgresStream::new(pool.clone()),
            chat: PostgresChat::new(pool.clone()),
            pool,
            hasher: Argon2Hasher::new(
                HashSettings::new(config.auth.password_hash_parallelism),
                runtime.handle().clone(),
            ),
            clock: HybridClock::new(
                NodeId(NAMESPACE.as_u64_pair().1),
                0,
                u64::MAX,
                Arc::new(SystemClock),
                Arc::new(Forgetful),
            ),
        };
        let report = seeder.all().await?;
        let client = postgres::connect(&settings, runtime.handle()).await?;
        client
            .batch_execute(MAKE_ADMIN)
            .await
            .map_err(|error| StoreError::Unavailable {
                reason: "closed",
                source: Some(Box::new(error)),
            })?;
        Ok(report)
    })
}

/// The stamps of one short run need no memory: a second run changes nothing.
struct Forgetful;
impl StampStore for Forgetful {
    fn reserve(&self, _: u64) {}
}

/// One command, one try: there is nothing to spare.
struct AlwaysClosed;
impl Breaker for AlwaysClosed {
    fn allows_writes(&self) -> bool {
        true
    }
    fn allows_reads(&self) -> bool {
        true
    }
    fn failed(&self, _: &StoreError) {}
}

struct Seeder {
    accounts: PostgresAccounts,
    operations: PostgresOperations,
    tasks: PostgresTasks,
    streams: PostgresStream,
    chat: PostgresChat,
    pool: Pool,
    hasher: Argon2Hasher,
    clock: HybridClock,
}

impl Seeder {
    async fn all(&self) -> Result<Report, SeedError> {
        let mut report = Report::default();
        for (index, (username, password, name)) in PEOPLE.into_iter().enumerate() {
            let user = UserId(derived(username));
            if self.register(user, username, password, name).await? {
                report.users += 1;
            }
            let wanted = if username == "demo" {
                TITLES.len()
            } else {
                3 + index % 3
            };
            report.tasks += self.add_tasks(user, index, wanted).await?;
            if WITH_STREAM.contains(&username) {
                report.items += self.add_stream(user).await?;
            }
        }
        self.add_chat(&mut report).await?;
        Ok(report)
    }

    async fn add_chat(&self, report: &mut Report) -> Result<(), SeedError> {
        let people = PEOPLE.map(|(username, ..)| UserId(derived(username)));
        for (one, other) in chat::pairs(&people) {
            report.conversations += usize::from(self.chat.open(one, other).await?.is_new);
        }
        let operations = chat::operations(&people, self.clock.now(), self.clock.stamp().node);
        for batch in operations.chunks(BATCH) {
            let verdicts = self.operations.replay(batch).await.map_err(refused)?;
            for verdict in verdicts {
                let is_new = matches!(
                    &verdict,
                    Verdict::Applied(Applied {
                        superseded: false,
                        state: EntityState::Message(_)
                    })
                );
                report.messages += usize::from(is_new);
            }
            self.tell_nobody(batch).await?;
        }
        Ok(())
    }

    /// Nobody is to be notified of these, and jobs wait for a second before they are taken up.
    async fn tell_nobody(&self, sent: &[Operation]) -> Result<(), SeedError> {
        let ids: Vec<Uuid> = sent.iter().map(Operation::entity_id).collect();
        self.pool
            .execute("seed_jobs", TELL_NOBODY, &[&ids])
            .await
            .map_err(StoreError::from)?;
        Ok(())
    }

    /// True when it is new.
    async fn register(
        &self,
        id: UserId,
        username: &'static str,
        password: &str,
        name: &str,
    ) -> Result<bool, SeedError> {
        if self.accounts.identity(id).await?.is_some() {
            return Ok(false);
        }
        let password = Password::parse(password).map_err(|error| SeedError::Hash(error.to_string()))?;
        let hashed = self.hasher.hash(&password).await;
        let account = NewAccount {
            id,
            username: Username::parse(username).map_err(|_| SeedError::Taken(username))?,
            name: Name::parse(name).ok(),
            email: Email::parse(&format!("{username}@example.com")).ok(),
            password_hash: hashed.map_err(|error| SeedError::Hash(error.to_string()))?,
            stamp: self.clock.stamp(),
        };
        match self.accounts.register(&account).await {
            Ok(()) => Ok(true),
            Err(RegisterError::UsernameTaken) => Err(SeedError::Taken(username)),
            Err(RegisterError::Store(error)) => Err(error.into()),
        }
    }

    /// How many are new. A user who has any task already is left alone.
    async fn add_tasks(&self, user: UserId, offset: usize, wanted: usize) -> Result<usize, SeedError> {
        let top: Option<PageKey> = None;
        if !self
            .tasks
            .list(user, TaskFilter::default(), top, 1)
            .await?
            .is_empty()
        {
            return Ok(0);
        }
        for number in 0..wanted {
            let operation = self.creation(user, number, TITLES[(offset + number) % TITLES.len()]);
            self.operations.apply(&operation).await?;
        }
        Ok(wanted)
    }

    /// How many items are new. A user who has ever had one is left alone.
    async fn add_stream(&self, user: UserId) -> Result<usize, SeedError> {
        if self.streams.version(user).await? > 0 {
            return Ok(0);
        }
        let items = stream::items(user, self.clock.now(), &AllowList::new())?;
        self.streams.ingest(&items, self.clock.stamp()).await?;
        Ok(items.len())
    }

    fn creation(&self, user: UserId, number: usize, title: &str) -> Operation {
        let id = OperationId::for_key(user, &format!("seed-task-{number}"));
        let description = number.is_multiple_of(3).then(|| {
            format!(
                "Number {} of the demonstration.\nChange it, finish it, delete it.",
                number + 1
            )
        });
        let new = NewTask {
            title: Title::parse(title).unwrap_or_else(|error| unreachable!("{title:?} {error}")),
            description: description.and_then(|text| Description::parse(&text).ok()),
            status: TaskStatus::ALL[number % TaskStatus::ALL.len()],
        };
        Operation::new(
            id,
            user,
            Change::Task {
                id: TaskId(id.created_entity()),
                change: TaskChange::Create(new),
            },
            self.clock.stamp(),
        )
    }
}

fn refused(error: BatchError) -> StoreError {
    match error {
        BatchError::Transient(error) => error,
        BatchError::Operation { reason, .. } => StoreError::Rejected { reason, source: None },
    }
}

fn derived(name: &str) -> Uuid {
    Uuid::new_v5(&NAMESPACE, name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_passwords_reach_production_only_when_told_so() {
        let config = Config::from_variables([
            ("DATABASE_URL", "postgres://gravity@127.0.0.1:1/gravity"),
            ("JWT_SECRET", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"),
        ])
        .unwrap();
        assert!(matches!(run(&config, false), Err(SeedError::Production)));
    }
}
