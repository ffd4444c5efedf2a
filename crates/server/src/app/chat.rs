//! Chat, put together: its stores, its use cases, its sockets, and what carries news between nodes.

use super::BuildError;
use super::calls::Feature;
use super::stores::Stores;
use crate::config::{ChatConfig, Config};
use gravity_api::chat::socket::{Hub, Mode, SocketSettings, UseCases};
use gravity_api::{AuthCalls, ChatCalls};
use gravity_domain::auth::RateLimiter;
use gravity_domain::chat::{
    BlockState, ChatCache, ChatStore, EventLog, Live, Message, NotificationStore, PresenceBoard,
    PushNotifier, ReadMarker, Relay, Tickets, WebhookNotifier,
};
use gravity_domain::clock::WallClock;
use gravity_domain::sync::ports::{Breaker, EntityCache, EntityStore};
use gravity_infra::chat::{
    CachedChat, ChatCachePorts, ChatCacheSettings, ChatEntities, EndpointGuard, Feed, FeedSettings,
    MemoryPresence, MemoryTickets, PostgresChat, PostgresEventLog, PostgresJobs, PostgresNotifications,
    PresenceSettings, RedisPresence, RedisTickets, SystemLookUp, VapidKey, WebPush, Webhook,
};
use gravity_infra::monitor::{Condition, StoreState};
use gravity_infra::postgres::Pool;
use gravity_infra::redis::{Carrier, Redis};
use gravity_usecase::auth::Identities;
use gravity_usecase::chat::{
    AddSubscription, BlockUser, Connect, CountUnread, GetBlockStatus, GetMessage, GetPreferences,
    IssueTicket, ListBlocks, ListConversations, ListMessages, LookUpPresence, MarkRead, MessageJudge,
    NotifyAbsent, NotifyPorts, NotifySettings, OpenConversation, RedeemTicket, RemoveSubscription, ReplayLog,
    SendMessage, SendPorts, SetPreferences, TellPresence, TellTyping, UnblockUser,
};
use gravity_usecase::sync::EntityReader;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// In this process, when there is no Redis.
const TICKETS: usize = 100_000;
/// The same: people of whom it is remembered when they were last here.
const PEOPLE: usize = 100_000;

/// What chat is kept in, and what it travels by.
pub(super) struct ChatStores {
    postgres: Arc<PostgresChat>,
    log: Arc<dyn EventLog>,
    cache: Arc<dyn ChatCache>,
    /// What is told of commits, direct ones and drained ones.
    pub(super) entities: ChatEntities,
    feed: Feed,
    pub(super) presence: Arc<dyn PresenceBoard>,
    tickets: Arc<dyn Tickets>,
    notifications: Arc<dyn NotificationStore>,
}

impl ChatStores {
    /// Must run on the runtime of `handle`.
    pub(super) fn open(
        config: &ChatConfig,
        pool: &Pool,
        (redis, carrier): (Option<&Redis>, Option<Carrier>),
        (breaker, wall): (&Arc<dyn Breaker>, &Arc<dyn WallClock>),
        handle: &Handle,
        stop: &CancellationToken,
    ) -> Self {
        let postgres = Arc::new(PostgresChat::new(pool.clone()));
        let log: Arc<dyn EventLog> = Arc::new(PostgresEventLog::new(pool.clone()));
        let room = ChatCacheSettings {
            bytes: config.cache_bytes,
            ..ChatCacheSettings::default()
        };
        let before = ChatCachePorts {
            store: postgres.clone(),
            log: Arc::clone(&log),
            breaker: Arc::clone(breaker),
        };
        let cache: Arc<dyn ChatCache> = Arc::new(CachedChat::new(room, before));
        let feed = Feed::spawn(FeedSettings::default(), carrier, handle, stop);
        let (presence, tickets) = shared(redis, wall);
        Self {
            entities: ChatEntities::new(Arc::clone(&cache), Arc::new(feed.clone())),
            postgres,
            log,
            cache,
            feed,
            presence,
            tickets,
            notifications: Arc::new(PostgresNotifications::new(pool.clone())),
        }
    }
}

impl ChatStores {
    /// Where changes are told to sockets, here and on other nodes.
    pub(super) fn live(&self) -> Arc<dyn Live> {
        Arc::new(self.feed.clone())
    }
}

fn shared(redis: Option<&Redis>, wall: &Arc<dyn WallClock>) -> (Arc<dyn PresenceBoard>, Arc<dyn Tickets>) {
    let local = MemoryTickets::new(TICKETS);
    match redis {
        Some(redis) => (
            Arc::new(RedisPresence::new(redis.clone(), PresenceSettings::default())),
            Arc::new(RedisTickets::new(redis.clone(), local)),
        ),
        None => {
            let grace = PresenceSettings::default().grace;
            let presence = MemoryPresence::new(Arc::clone(wall), grace, PEOPLE);
            (Arc::new(presence), Arc::new(local))
        }
    }
}

/// The key of Web Push, if it is set up.
pub(super) fn vapid_key(config: &ChatConfig) -> Result<Option<VapidKey>, BuildError> {
    let Some(key) = &config.vapid_private_key else {
        return Ok(None);
    };
    let subject = config.vapid_subject.as_deref().unwrap_or_default();
    Ok(Some(VapidKey::parse(key.expose(), subject)?))
}

pub(super) fn endpoint_guard(config: &ChatConfig) -> EndpointGuard {
    EndpointGuard::new(config.push_allow_loopback, Arc::new(SystemLookUp))
}

/// Tells those who are not there.
pub(super) fn notifier(
    config: &ChatConfig,
    stores: &Stores,
    hub: &Arc<Hub>,
) -> Result<NotifyAbsent, BuildError> {
    let wall = || Arc::clone(&stores.wall);
    let push = match vapid_key(config)? {
        Some(key) => {
            let push = WebPush::new(key, endpoint_guard(config), wall());
            Some(
                Arc::new(push.map_err(|error| BuildError::HttpClient(error.into()))?)
                    as Arc<dyn PushNotifier>,
            )
        }
        None => None,
    };
    let webhook = match &config.webhook {
        Some(to) => {
            let webhook = Webhook::new(&to.url, &to.secret, config.push_allow_loopback, wall());
            Some(Arc::new(webhook?) as Arc<dyn WebhookNotifier>)
        }
        None => None,
    };
    let hub = Arc::clone(hub);
    let ports = NotifyPorts {
        jobs: Arc::new(PostgresJobs::new(stores.pool.clone())),
        presence: Arc::clone(&stores.chat.presence),
        is_here: Arc::new(move |user| hub.is_here(user)),
        push,
        webhook,
        breaker: Arc::clone(&stores.breaker),
    };
    let settings = NotifySettings {
        max_attempts: config.notification_max_attempts,
        ..NotifySettings::default()
    };
    Ok(NotifyAbsent::new(ports, settings))
}

/// What chat shares with the rest.
pub(super) struct Around<'a> {
    pub(super) config: &'a Config,
    pub(super) stores: &'a Stores,
    pub(super) auth: &'a AuthCalls,
    pub(super) identities: &'a Arc<Identities>,
    pub(super) handle: &'a Handle,
}

impl Around<'_> {
    fn limiter(&self) -> Arc<dyn RateLimiter> {
        Arc::clone(&self.auth.login.limiter)
    }
}

impl Feature {
    /// The calls, and the sockets: open for business at once.
    pub(super) fn chat(&self, around: &Around<'_>) -> Result<ChatCalls, BuildError> {
        let (config, chat) = (&around.config.chat, &around.stores.chat);
        let store = || -> Arc<dyn ChatStore> { chat.postgres.clone() };
        let cache = || Arc::clone(&chat.cache);
        let (breaker, buffer) = (|| Arc::clone(&self.breaker), || Arc::clone(&self.buffer));
        let (writer, blocks) = (
            || Arc::clone(&self.writer),
            Arc::new(self.entities::<BlockState>(chat)),
        );
        let (send, read) = (Arc::new(self.sending(around)), Arc::new(self.marking(chat)));
        let socket = self.sockets(around, &send, &read);
        let notifications = || Arc::clone(&chat.notifications);
        let opening = OpenConversation::per_minute(config.conversations_per_minute);
        let wall = Arc::clone(&around.stores.wall);
        let endpoints = Arc::new(endpoint_guard(config));
        Ok(ChatCalls {
            list: ListConversations::new(store(), cache(), breaker(), buffer()),
            unread: CountUnread::new(cache(), buffer()),
            open: OpenConversation::new(
                store(),
                cache(),
                breaker(),
                buffer(),
                Arc::new(chat.feed.clone()),
                around.limiter(),
                opening,
            ),
            messages: ListMessages::new(store(), cache(), breaker(), buffer()),
            message: GetMessage::new(store(), breaker(), buffer()),
            send,
            read,
            blocks: ListBlocks::new(cache(), buffer()),
            block: BlockUser::new(writer(), Arc::clone(&blocks), cache(), buffer()),
            unblock: UnblockUser::new(writer(), blocks, cache(), buffer()),
            block_status: GetBlockStatus::new(store(), cache(), breaker(), buffer()),
            presence: LookUpPresence::new(cache(), buffer(), Arc::clone(&chat.presence)),
            issue_ticket: IssueTicket::new(Arc::clone(&chat.tickets)),
            get_preferences: GetPreferences::new(notifications(), breaker()),
            set_preferences: SetPreferences::new(notifications(), breaker()),
            subscribe: AddSubscription::new(notifications(), breaker(), endpoints, wall),
            unsubscribe: RemoveSubscription::new(notifications(), breaker()),
            vapid_public_key: vapid_key(config)?.map(|key| key.public_key().to_owned()),
            socket,
        })
    }

    fn entities<E>(&self, chat: &ChatStores) -> EntityReader<E>
    where
        E: gravity_domain::sync::Entity,
        PostgresChat: EntityStore<E>,
        ChatEntities: EntityCache<E>,
    {
        EntityReader::new(
            chat.postgres.clone(),
            Arc::new(chat.entities.clone()),
            Arc::clone(&self.breaker),
            Arc::clone(&self.buffer),
        )
    }

    fn sending(&self, around: &Around<'_>) -> SendMessage {
        let chat = &around.stores.chat;
        let (breaker, buffer) = (Arc::clone(&self.breaker), Arc::clone(&self.buffer));
        let judge = MessageJudge::new(Arc::clone(&chat.cache), Arc::clone(&breaker), Arc::clone(&buffer));
        let judge = Arc::new(judge);
        let reader = self.entities::<Message>(chat).judged_by(judge.clone());
        let ports = SendPorts {
            store: chat.postgres.clone(),
            judge,
            breaker,
            buffer,
            live: Arc::new(chat.feed.clone()),
            limiter: around.limiter(),
            quota: SendMessage::per_minute(around.config.chat.messages_per_minute),
        };
        SendMessage::new(Arc::clone(&self.writer), Arc::new(reader), ports)
    }

    fn marking(&self, chat: &ChatStores) -> MarkRead {
        MarkRead::new(
            Arc::clone(&self.writer),
            Arc::new(self.entities::<ReadMarker>(chat)),
            Arc::clone(&chat.cache),
            Arc::clone(&self.breaker),
            Arc::clone(&self.buffer),
        )
    }

    fn sockets(&self, around: &Around<'_>, send: &Arc<SendMessage>, read: &Arc<MarkRead>) -> Arc<Hub> {
        let (config, stores, chat) = (around.config, around.stores, &around.stores.chat);
        let settings = SocketSettings {
            allowed_origins: config.chat.allowed_origins.clone(),
            max_sockets_per_user: config.chat.max_sockets_per_user,
            messages_per_minute: config.chat.messages_per_minute,
            deadline: config.database.write_deadline,
            ..SocketSettings::default()
        };
        let hub = Hub::new(settings, Arc::clone(&stores.wall), around.handle.clone());
        let live: Arc<dyn Live> = Arc::new(chat.feed.clone());
        let cache = || Arc::clone(&chat.cache);
        let (breaker, buffer) = (|| Arc::clone(&self.breaker), || Arc::clone(&self.buffer));
        let calls = UseCases {
            authenticate: Arc::clone(&around.auth.authenticate),
            identities: Arc::clone(around.identities),
            redeem: RedeemTicket::new(Arc::clone(&chat.tickets)),
            send: Arc::clone(send),
            read: Arc::clone(read),
            typing: TellTyping::new(cache(), buffer(), Arc::clone(&live)),
            presence: TellPresence::new(
                cache(),
                buffer(),
                Arc::clone(&chat.presence),
                live,
                Arc::clone(&stores.wall),
            ),
            connect: Connect::new(cache(), Arc::clone(&chat.log), breaker()),
            replay: ReplayLog::new(Arc::clone(&chat.log), breaker()),
        };
        chat.feed.connect(hub.clone());
        let relay: Arc<dyn Relay> = Arc::new(chat.feed.clone());
        hub.start(Arc::new(calls), relay);
        let postgres = stores.connections.postgres.subscribe();
        around.handle.spawn(tell_mode(Arc::clone(&hub), postgres));
        hub
    }
}

/// Tells the sockets whether Postgres is there. Ends with the monitor.
async fn tell_mode(hub: Arc<Hub>, mut postgres: watch::Receiver<StoreState>) {
    loop {
        let state = *postgres.borrow_and_update();
        let mode = match state.condition {
            Condition::Up { .. } => Mode::Normal,
            _ => Mode::Degraded,
        };
        hub.mode_changed(mode, state.since);
        if postgres.changed().await.is_err() {
            return;
        }
    }
}
