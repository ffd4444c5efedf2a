//! A whole API over [`Memory`], and a client to call it with.

use crate::ports::{ALICE, BOB, Memory, ROOT};
use actix_web::http::{Method, StatusCode};
use actix_web::{test, web};
use futures_util::future::LocalBoxFuture;
use gravity_api::chat::socket::{Hub, SocketSettings};
use gravity_api::health::{HealthReport, HealthSource, Lifecycle, RedisHealth, ServiceHealth};
use gravity_api::{
    ApiState, AuthCalls, ChatCalls, HttpSettings, ProfileCalls, StreamCalls, SyncCalls, TaskCalls,
};
use gravity_domain::auth::{AccessToken, MockTokenSigner, RefreshTokens, Role, Secret, UserStatus, Username};
use gravity_domain::chat::{BlockState, Message, ReadMarker};
use gravity_domain::clock::{Hlc, HybridClock, MockClock, NodeId, Timestamp};
use gravity_domain::id::UserId;
use gravity_domain::profile::Profile;
use gravity_domain::stream::ActionReceipt;
use gravity_domain::sync::Lww;
use gravity_domain::sync::ports::{WriteBuffer as _, WritePorts};
use gravity_domain::task::Task;
use gravity_usecase::auth::{
    Authenticate, DeleteSession, Identities, IdentitySettings, ListSessions, Login, LoginQuotas, Logout,
    Refresh, Register, TokenIssuer,
};
use gravity_usecase::chat::{
    AddSubscription, BlockUser, CountUnread, GetBlockStatus, GetMessage, GetPreferences, IssueTicket,
    ListBlocks, ListConversations, ListMessages as ListChatMessages, LookUpPresence, MarkRead, MessageJudge,
    OpenConversation, RemoveSubscription, SendMessage, SendPorts, SetPreferences, UnblockUser,
};
use gravity_usecase::profile::{GetProfile, UpdateProfile};
use gravity_usecase::stream::{
    ActOnItems, GetChanges, GetItem, IngestItems, ListMessages, ListStream, RemoveItems, StreamJudge,
};
use gravity_usecase::sync::{
    DiscardDeadLetter, EntityReader, GetOperation, ListDeadLetters, RetryDeadLetter, Warmer, WriteSettings,
    Writer,
};
use gravity_usecase::task::{CreateTask, DeleteTask, GetTask, ListTasks, UpdateTask};
use serde_json::Value;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;

pub(crate) const NOW: i64 = 1_700_000_000_000;

struct Health(Arc<Memory>, Arc<Mutex<HealthReport>>);

impl HealthSource for Health {
    fn report(&self) -> HealthReport {
        HealthReport {
            buffer: self.0.status(),
            ..*self.1.lock().unwrap()
        }
    }
}

/// The ports, the clock and the settings of an API under test.
pub(crate) struct World {
    pub(crate) memory: Arc<Memory>,
    pub(crate) clock: Arc<MockClock>,
    pub(crate) health: Arc<Mutex<HealthReport>>,
    pub(crate) http: HttpSettings,
    pub(crate) vapid_public_key: Option<String>,
}

impl World {
    pub(crate) fn new() -> Self {
        // A subscriber that takes everything, before the first span: a place in the code that a thread without one meets
        // first is remembered as of no interest, also for the tests that listen.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
        let memory = Arc::new(Memory::default());
        memory.calls_left.store(1_000, Ordering::SeqCst);
        for (id, name) in [(ALICE, "alice"), (BOB, "bob"), (ROOT, "root")] {
            memory.profiles.lock().unwrap().insert(id.0, profile(id, name));
        }
        let up = |latency_ms| ServiceHealth {
            up: true,
            last_check: Some(Timestamp::from_millis(NOW)),
            latency_ms: Some(latency_ms),
        };
        let health = HealthReport {
            lifecycle: Lifecycle::Serving,
            now: Timestamp::from_millis(NOW + 1_500),
            uptime_seconds: 7,
            postgresql: up(0.5),
            redis: RedisHealth::Server(up(0.25)),
            buffer: memory.status(),
            drain_rate_per_second: 12.5,
        };
        Self {
            memory,
            clock: Arc::new(MockClock::at(NOW)),
            health: Arc::new(Mutex::new(health)),
            http: HttpSettings::default(),
            vapid_public_key: None,
        }
    }

    pub(crate) fn set(&self, switch: impl Fn(&Memory) -> &AtomicBool, to: bool) {
        switch(&self.memory).store(to, Ordering::SeqCst);
    }

    pub(crate) fn postgres_down(&self) {
        self.set(|memory| &memory.postgres_down, true);
    }

    pub(crate) fn state(&self) -> ApiState {
        let memory = &self.memory;
        let ports = WritePorts {
            store: memory.clone(),
            breaker: memory.clone(),
            buffer: memory.clone(),
            known: memory.clone(),
        };
        let stamps = HybridClock::new(NodeId(1), 0, 60_000, self.clock.clone(), Arc::new(()));
        let stamps = Arc::new(stamps);
        let settings = WriteSettings {
            deadline: Duration::from_secs(1),
        };
        let writer = Arc::new(Writer::new(ports.clone(), stamps.clone(), settings));
        let warmer = Arc::new(Warmer::new(Vec::new(), memory.clone()));
        let tasks: Arc<EntityReader<Task>> = Arc::new(EntityReader::new(
            memory.clone(),
            memory.clone(),
            memory.clone(),
            memory.clone(),
        ));
        let profiles: Arc<EntityReader<Profile>> = Arc::new(EntityReader::new(
            memory.clone(),
            memory.clone(),
            memory.clone(),
            memory.clone(),
        ));
        ApiState {
            stream: self.stream(&writer, &stamps),
            chat: self.chat(&writer),
            auth: self.auth(&stamps),
            profile: ProfileCalls {
                get: GetProfile::new(profiles.clone()),
                update: UpdateProfile::new(writer.clone(), profiles),
            },
            task: TaskCalls {
                create: CreateTask::new(writer.clone(), tasks.clone(), warmer.clone()),
                list: ListTasks::new(
                    memory.clone(),
                    memory.clone(),
                    memory.clone(),
                    memory.clone(),
                    warmer.clone(),
                ),
                get: GetTask::new(tasks.clone(), warmer.clone()),
                update: UpdateTask::new(writer.clone(), tasks.clone(), warmer.clone()),
                delete: DeleteTask::new(writer, tasks, warmer),
            },
            sync: SyncCalls {
                operation: GetOperation::new(ports),
                list_dead_letters: ListDeadLetters::new(memory.clone()),
                retry_dead_letter: RetryDeadLetter::new(memory.clone()),
                discard_dead_letter: DiscardDeadLetter::new(memory.clone()),
            },
            health: Arc::new(Health(memory.clone(), self.health.clone())),
            metrics: Arc::new(|| "# rendered\n".to_owned()),
            http: self.http.clone(),
        }
    }

    fn stream(&self, writer: &Arc<Writer>, stamps: &Arc<HybridClock>) -> StreamCalls {
        let memory = &self.memory;
        let receipts: EntityReader<ActionReceipt> =
            EntityReader::new(memory.clone(), memory.clone(), memory.clone(), memory.clone());
        let judge = StreamJudge::new(memory.clone(), memory.clone(), stamps.clone());
        let receipts = Arc::new(receipts.judged_by(Arc::new(judge)));
        StreamCalls {
            list: ListStream::new(memory.clone(), memory.clone(), memory.clone()),
            get: GetItem::new(memory.clone(), memory.clone()),
            messages: ListMessages::new(memory.clone(), memory.clone(), memory.clone()),
            changes: GetChanges::new(memory.clone(), memory.clone(), memory.clone(), memory.clone()),
            act: ActOnItems::new(
                writer.clone(),
                receipts,
                memory.clone(),
                memory.clone(),
                memory.clone(),
                memory.clone(),
            ),
            ingest: IngestItems::new(memory.clone(), memory.clone(), memory.clone(), stamps.clone()),
            remove: RemoveItems::new(memory.clone(), memory.clone(), memory.clone()),
            html: memory.clone(),
            limiter: memory.clone(),
            ingest_quota: StreamCalls::per_minute(600),
        }
    }

    fn chat(&self, writer: &Arc<Writer>) -> ChatCalls {
        let memory = || self.memory.clone();
        let messages: EntityReader<Message> = EntityReader::new(memory(), memory(), memory(), memory());
        let markers: EntityReader<ReadMarker> = EntityReader::new(memory(), memory(), memory(), memory());
        let blocks: EntityReader<BlockState> = EntityReader::new(memory(), memory(), memory(), memory());
        let judge = Arc::new(MessageJudge::new(memory(), memory(), memory()));
        let messages = Arc::new(messages.judged_by(judge.clone()));
        let blocks = Arc::new(blocks);
        let sending = SendPorts {
            store: memory(),
            judge,
            breaker: memory(),
            buffer: memory(),
            live: memory(),
            limiter: memory(),
            quota: SendMessage::per_minute(30),
        };
        ChatCalls {
            list: ListConversations::new(memory(), memory(), memory(), memory()),
            unread: CountUnread::new(memory(), memory()),
            open: OpenConversation::new(
                memory(),
                memory(),
                memory(),
                memory(),
                memory(),
                memory(),
                OpenConversation::per_minute(10),
            ),
            messages: ListChatMessages::new(memory(), memory(), memory(), memory()),
            message: GetMessage::new(memory(), memory(), memory()),
            send: Arc::new(SendMessage::new(writer.clone(), messages, sending)),
            read: Arc::new(MarkRead::new(
                writer.clone(),
                Arc::new(markers),
                memory(),
                memory(),
                memory(),
            )),
            blocks: ListBlocks::new(memory(), memory()),
            block: BlockUser::new(writer.clone(), blocks.clone(), memory(), memory()),
            unblock: UnblockUser::new(writer.clone(), blocks, memory(), memory()),
            block_status: GetBlockStatus::new(memory(), memory(), memory(), memory()),
            presence: LookUpPresence::new(memory(), memory(), memory()),
            issue_ticket: IssueTicket::new(memory()),
            get_preferences: GetPreferences::new(memory(), memory()),
            set_preferences: SetPreferences::new(memory(), memory()),
            subscribe: AddSubscription::new(memory(), memory(), memory(), self.clock.clone()),
            unsubscribe: RemoveSubscription::new(memory(), memory()),
            vapid_public_key: self.vapid_public_key.clone(),
            socket: Hub::new(SocketSettings::default(), self.clock.clone(), Handle::current()),
        }
    }

    fn auth(&self, stamps: &Arc<HybridClock>) -> AuthCalls {
        let memory = &self.memory;
        let identities = Arc::new(Identities::new(memory.clone(), IdentitySettings::default()));
        let mut signer = MockTokenSigner::new();
        signer.expect_sign().returning(|_| {
            Ok(AccessToken {
                token: Secret::new("signed"),
                expires_in: Duration::from_secs(900),
            })
        });
        let tokens = Some(Arc::new(TokenIssuer {
            signer: Arc::new(signer),
            refresh: RefreshTokens::new(&Secret::new("0123456789abcdef0123456789abcdef")),
            session_ttl: Duration::from_secs(86_400),
            reuse_grace: Duration::from_secs(10),
        }));
        AuthCalls {
            authenticate: Arc::new(Authenticate {
                verifier: memory.clone(),
                identities: identities.clone(),
                clock: stamps.clone(),
                auto_provision: false,
            }),
            register: Register {
                accounts: memory.clone(),
                hasher: memory.clone(),
                limiter: memory.clone(),
                clock: stamps.clone(),
                quota: Register::per_hour(10),
                enabled: true,
            },
            login: Login {
                accounts: memory.clone(),
                sessions: memory.clone(),
                hasher: memory.clone(),
                limiter: memory.clone(),
                tokens: tokens.clone(),
                clock: self.clock.clone(),
                quotas: LoginQuotas::per_minute(10),
            },
            refresh: Refresh {
                sessions: memory.clone(),
                identities,
                tokens: tokens.clone(),
                clock: self.clock.clone(),
            },
            logout: Logout {
                sessions: memory.clone(),
                tokens,
            },
            list_sessions: ListSessions {
                sessions: memory.clone(),
            },
            delete_session: DeleteSession {
                sessions: memory.clone(),
            },
            blocker: memory.clone(),
        }
    }

    /// A client of a fresh app over this world.
    pub(crate) async fn client(&self) -> Client {
        let app = Rc::new(test::init_service(gravity_api::app(web::Data::new(self.state()))).await);
        let call = move |request: test::TestRequest| -> LocalBoxFuture<'static, Reply> {
            let app = Rc::clone(&app);
            Box::pin(async move {
                let response = test::call_service(&*app, request.to_request()).await;
                let (status, headers) = (response.status(), response.headers().clone());
                let body = test::read_body(response).await;
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let headers = headers
                    .iter()
                    .map(|(name, value)| (name.to_string(), text(value.as_bytes())));
                Reply {
                    status,
                    headers: headers.collect(),
                    text: text(&body),
                }
            })
        };
        Client { call: Box::new(call) }
    }
}

fn profile(id: UserId, name: &str) -> Profile {
    let at = Timestamp::from_millis(NOW);
    Profile {
        id,
        username: Username::parse(name).unwrap(),
        name: Lww::new(None, Hlc::ZERO),
        avatar_url: Lww::new(None, Hlc::ZERO),
        role: Role::User,
        status: UserStatus::Active,
        created_at: at,
        updated_at: at,
        version: 1,
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    pub(crate) fn data(&self) -> Value {
        self.json()["data"].clone()
    }

    /// Status and `code`, to compare at once.
    pub(crate) fn failure(&self) -> (u16, String) {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let body = self.json();
        assert_eq!(body["status"], self.status.as_u16());
        assert_eq!(body["requestId"].as_str(), self.header("x-request-id"));
        (
            self.status.as_u16(),
            body["code"].as_str().unwrap_or_default().to_owned(),
        )
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Asserts a problem: status and code.
#[track_caller]
pub(crate) fn refused(reply: &Reply, status: u16, code: &str) {
    assert_eq!(reply.failure(), (status, code.to_owned()), "{reply:?}");
}

/// Calls an app.
pub(crate) struct Client {
    call: Box<dyn Fn(test::TestRequest) -> LocalBoxFuture<'static, Reply>>,
}

/// A request: as whom (empty for nobody), and what.
#[derive(Clone, Default)]
pub(crate) struct Call<'a> {
    pub(crate) who: &'a str,
    pub(crate) headers: Vec<(&'a str, &'a str)>,
    pub(crate) body: Option<Vec<u8>>,
    pub(crate) peer: Option<&'a str>,
}

impl<'a> Call<'a> {
    pub(crate) fn by(who: &'a str) -> Self {
        Self {
            who,
            ..Self::default()
        }
    }

    pub(crate) fn header(mut self, name: &'a str, value: &'a str) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.raw(body.to_string())
            .header("content-type", "application/json")
    }

    pub(crate) fn raw(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }
}

impl Client {
    pub(crate) async fn send(&self, method: &str, path: &str, call: Call<'_>) -> Reply {
        let mut request =
            test::TestRequest::with_uri(path).method(Method::from_bytes(method.as_bytes()).unwrap());
        if !call.who.is_empty() {
            request = request.insert_header(("authorization", format!("Bearer {}", call.who)));
        }
        for header in call.headers {
            request = request.append_header(header);
        }
        if let Some(body) = call.body {
            request = request.set_payload(body);
        }
        let peer = call.peer.unwrap_or("192.0.2.1:1234").parse().unwrap();
        (self.call)(request.peer_addr(peer)).await
    }

    pub(crate) async fn get(&self, who: &str, path: &str) -> Reply {
        self.send("GET", path, Call::by(who)).await
    }

    pub(crate) async fn post(&self, who: &str, path: &str, body: &Value) -> Reply {
        self.send("POST", path, Call::by(who).json(body)).await
    }

    pub(crate) async fn put(&self, who: &str, path: &str, body: &Value) -> Reply {
        self.send("PUT", path, Call::by(who).json(body)).await
    }

    /// Creates a task of Alice and tells its path.
    pub(crate) async fn task(&self, title: &str) -> String {
        let reply = self
            .post("alice", "/api/v1/tasks", &serde_json::json!({ "title": title }))
            .await;
        reply.header("location").expect("a location").to_owned()
    }
}
