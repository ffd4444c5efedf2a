//! Two nodes over one Postgres and one Redis, and users in pairs with a conversation each.

pub(super) use crate::server::Server;

use crate::bench::connect;
use crate::server::SECRET;
use gravity_domain::id::{ConversationId, UserId};
use gravity_test_support::builders::Claims;
use gravity_test_support::services::{Postgres, Redis};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

pub(super) struct World {
    nodes: [Option<Server>; 2],
    program: PathBuf,
    settings: [Vec<(&'static str, String)>; 2],
    /// Of each user.
    pub(super) tokens: Arc<Vec<String>>,
    _buffers: tempfile::TempDir,
}

pub(super) fn user(n: usize) -> UserId {
    UserId(Uuid::from_u128(
        0x0199_0000_0000_7000_8000_0000_0000_0000 + n as u128,
    ))
}

/// The conversation of a user with the other of the pair.
pub(super) fn conversation(n: usize) -> Uuid {
    ConversationId::of(user(n), user(n ^ 1)).0
}

impl World {
    pub(super) async fn start(
        program: &Path,
        postgres: &Postgres,
        redis: &Redis,
        users: usize,
    ) -> Outcome<Self> {
        connect(&postgres.url("postgres"))
            .await?
            .batch_execute("CREATE DATABASE bench_chat")
            .await?;
        let database = postgres.url("bench_chat");
        let buffers = tempfile::tempdir_in("target")?;
        let settings = ["one", "two"].map(|node| {
            vec![
                ("DATABASE_URL", database.clone()),
                ("REDIS_URL", redis.url()),
                ("BUFFER_PATH", buffers.path().join(node).display().to_string()),
                ("CHAT_MESSAGES_PER_MINUTE", "1000000".to_owned()),
            ]
        });
        let one = Server::start(program, &["serve"], &settings[0]).await?;
        one.wait("/health", |answer| answer.status == 200).await?;
        fill(&database, users.next_multiple_of(2)).await?;
        let two = Server::start(program, &["serve"], &settings[1]).await?;
        two.wait("/health", |answer| answer.status == 200).await?;
        let tokens = (0..users).map(|n| {
            Claims::of(user(n).0)
                .role("user")
                .expires_in(86_400)
                .signed(SECRET)
        });
        Ok(Self {
            nodes: [Some(one), Some(two)],
            program: program.to_owned(),
            settings,
            tokens: Arc::new(tokens.collect()),
            _buffers: buffers,
        })
    }

    /// The first or the second node.
    pub(super) fn node(&self, n: usize) -> &Server {
        self.nodes[n]
            .as_ref()
            .expect("a node that was killed is started again before it is used")
    }

    /// Kills a node at once.
    pub(super) fn kill(&mut self, n: usize) {
        self.nodes[n] = None;
    }

    pub(super) async fn restart(&mut self, n: usize) -> Outcome {
        let server = Server::start(&self.program, &["serve"], &self.settings[n]).await?;
        server.wait("/health", |answer| answer.status == 200).await?;
        self.nodes[n] = Some(server);
        Ok(())
    }

    /// Processor time of both.
    pub(super) fn cpu(&self) -> Duration {
        self.nodes.iter().flatten().map(Server::cpu).sum()
    }
}

/// Users, and a conversation of each with their partner.
async fn fill(database: &str, users: usize) -> Outcome {
    let client = connect(database).await?;
    let ids: Vec<Uuid> = (0..users).map(|n| user(n).0).collect();
    client
        .execute(
            "INSERT INTO users (id, username, created_at, updated_at)
             SELECT id, 'load_' || n, now(), now() FROM unnest($1::uuid[]) WITH ORDINALITY AS who (id, n)",
            &[&ids],
        )
        .await?;
    let conversations: Vec<Uuid> = (0..users).step_by(2).map(conversation).collect();
    let (firsts, seconds): (Vec<Uuid>, Vec<Uuid>) =
        (0..users).step_by(2).map(|n| (user(n).0, user(n + 1).0)).unzip();
    client
        .execute(
            "INSERT INTO conversations (id, direct_key)
             SELECT id, least(a, b) || ':' || greatest(a, b) FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS pair (id, a, b)",
            &[&conversations, &firsts, &seconds],
        )
        .await?;
    client
        .execute(
            "INSERT INTO conversation_participants (conversation_id, user_id)
             SELECT id, who FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS pair (id, a, b), unnest(ARRAY[a, b]) AS who",
            &[&conversations, &firsts, &seconds],
        )
        .await?;
    client.batch_execute("ANALYZE").await?;
    Ok(())
}
