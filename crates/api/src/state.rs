//! What the handlers work with: the use cases, built by the server, and a few settings.

use crate::chat::socket::Hub;
use crate::health::HealthSource;
use gravity_domain::auth::{AddressBlocker, Quota, RateLimiter};
use gravity_domain::stream::HtmlSanitizer;
use gravity_usecase::auth::{Authenticate, DeleteSession, ListSessions, Login, Logout, Refresh, Register};
use gravity_usecase::chat::{
    AddSubscription, BlockUser, CountUnread, GetBlockStatus, GetMessage, GetPreferences, IssueTicket,
    ListBlocks, ListConversations, ListMessages as ListChatMessages, LookUpPresence, MarkRead,
    OpenConversation, RemoveSubscription, SendMessage, SetPreferences, UnblockUser,
};
use gravity_usecase::profile::{GetProfile, UpdateProfile};
use gravity_usecase::stream::{
    ActOnItems, GetChanges, GetItem, IngestItems, ListMessages, ListStream, RemoveItems,
};
use gravity_usecase::sync::{DiscardDeadLetter, GetOperation, ListDeadLetters, RetryDeadLetter};
use gravity_usecase::task::{CreateTask, DeleteTask, GetTask, ListTasks, UpdateTask};
use ipnet::IpNet;
use std::sync::Arc;
use std::time::Duration;

/// Everything; made once, shared by all workers as `web::Data<ApiState>`.
pub struct ApiState {
    /// Authentication.
    pub auth: AuthCalls,
    /// Profiles.
    pub profile: ProfileCalls,
    /// Tasks.
    pub task: TaskCalls,
    /// Streams.
    pub stream: StreamCalls,
    /// Chat.
    pub chat: ChatCalls,
    /// Operations, the buffer and its dead letters.
    pub sync: SyncCalls,
    /// What `/health` and `/ready` read.
    pub health: Arc<dyn HealthSource>,
    /// Renders `/metrics` as Prometheus text.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Settings.
    pub http: HttpSettings,
}

/// The use cases of authentication.
pub struct AuthCalls {
    /// Behind every route that is not public.
    pub authenticate: Arc<Authenticate>,
    /// `POST /api/v1/auth/register`.
    pub register: Register,
    /// `POST /api/v1/auth/login`.
    pub login: Login,
    /// `POST /api/v1/auth/refresh`.
    pub refresh: Refresh,
    /// `POST /api/v1/auth/logout`.
    pub logout: Logout,
    /// `GET /api/v1/auth/sessions`.
    pub list_sessions: ListSessions,
    /// `DELETE /api/v1/auth/sessions/{id}`.
    pub delete_session: DeleteSession,
    /// Keeps addresses out.
    pub blocker: Arc<dyn AddressBlocker>,
}

/// The use cases of profiles.
pub struct ProfileCalls {
    /// `GET /api/v1/profile`.
    pub get: GetProfile,
    /// `PUT /api/v1/profile`.
    pub update: UpdateProfile,
}

/// The use cases of tasks.
pub struct TaskCalls {
    /// `POST /api/v1/tasks`.
    pub create: CreateTask,
    /// `GET /api/v1/tasks`.
    pub list: ListTasks,
    /// `GET /api/v1/tasks/{id}`.
    pub get: GetTask,
    /// `PUT /api/v1/tasks/{id}`.
    pub update: UpdateTask,
    /// `DELETE /api/v1/tasks/{id}`.
    pub delete: DeleteTask,
}

/// The use cases of streams.
pub struct StreamCalls {
    /// `GET /v2/stream`.
    pub list: ListStream,
    /// `GET /v2/stream/{itemId}`.
    pub get: GetItem,
    /// `GET /v2/stream/{itemId}/messages`.
    pub messages: ListMessages,
    /// `GET /v2/stream/changes`.
    pub changes: GetChanges,
    /// `POST /v2/stream/actions`.
    pub act: ActOnItems,
    /// `POST /v2/ingest/items`.
    pub ingest: IngestItems,
    /// `DELETE /v2/ingest/items`.
    pub remove: RemoveItems,
    /// Cleans the HTML that is fed in.
    pub html: Arc<dyn HtmlSanitizer>,
    /// Counts the calls of services.
    pub limiter: Arc<dyn RateLimiter>,
    /// How often an account may feed; see [`StreamCalls::per_minute`].
    pub ingest_quota: Quota,
}

impl StreamCalls {
    /// The quota of this many calls of ingest per minute and account.
    pub fn per_minute(calls: u32) -> Quota {
        Quota {
            name: "ingest_account",
            limit: calls,
            window: Duration::from_secs(60),
        }
    }
}

/// The use cases of chat.
pub struct ChatCalls {
    /// `GET /api/chat/conversations`.
    pub list: ListConversations,
    /// `GET /api/chat/conversations/unread-count`.
    pub unread: CountUnread,
    /// `GET /api/chat/conversations/with/{username}`.
    pub open: OpenConversation,
    /// `GET /api/chat/conversations/{id}/messages`.
    pub messages: ListChatMessages,
    /// `GET /api/chat/messages/{id}`.
    pub message: GetMessage,
    /// `POST /api/chat/conversations/{id}/messages`, and the socket's `message.send`.
    pub send: Arc<SendMessage>,
    /// `POST /api/chat/conversations/{id}/read`, and the socket's `message.read`.
    pub read: Arc<MarkRead>,
    /// `GET /api/chat/blocks`.
    pub blocks: ListBlocks,
    /// `POST /api/chat/blocks`.
    pub block: BlockUser,
    /// `DELETE /api/chat/blocks/{username}`.
    pub unblock: UnblockUser,
    /// `GET /api/chat/blocks/status/{username}`.
    pub block_status: GetBlockStatus,
    /// `GET /api/chat/presence`.
    pub presence: LookUpPresence,
    /// `POST /api/chat/ws-tickets`.
    pub issue_ticket: IssueTicket,
    /// `GET /api/chat/notifications/preferences`.
    pub get_preferences: GetPreferences,
    /// `PUT /api/chat/notifications/preferences`.
    pub set_preferences: SetPreferences,
    /// `POST /api/chat/notifications/subscriptions`.
    pub subscribe: AddSubscription,
    /// `DELETE /api/chat/notifications/subscriptions`.
    pub unsubscribe: RemoveSubscription,
    /// `GET /api/chat/notifications/vapid-key`; `None` while Web Push is off.
    pub vapid_public_key: Option<String>,
    /// `GET /api/chat/ws`, and whoever is connected.
    pub socket: Arc<Hub>,
}

/// The use cases of operations and dead letters.
pub struct SyncCalls {
    /// `GET /api/v1/operations/{id}`.
    pub operation: GetOperation,
    /// `GET /api/v1/admin/dead-letters`.
    pub list_dead_letters: ListDeadLetters,
    /// `POST /api/v1/admin/dead-letters/{id}/retry`.
    pub retry_dead_letter: RetryDeadLetter,
    /// `DELETE /api/v1/admin/dead-letters/{id}`.
    pub discard_dead_letter: DiscardDeadLetter,
}

/// Settings of the HTTP layer.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// `CORS_ALLOWED_ORIGINS`: exact origins; none switches CORS off.
    pub cors_origins: Vec<String>,
    /// `TRUSTED_PROXIES`: whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<IpNet>,
    /// The largest body, in bytes as received.
    pub body_limit: usize,
    /// The largest body of an ingest call, in bytes as received.
    pub batch_limit: usize,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// `WRITE_DEADLINE_MS`: how long a request may wait for the stores, all in all.
    pub deadline: Duration,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            cors_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            body_limit: 64 * 1024,
            batch_limit: 4 * 1024 * 1024,
            body_timeout: Duration::from_secs(30),
            deadline: Duration::from_secs(1),
        }
    }
}
