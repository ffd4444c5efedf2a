//! What this process remembers of chat, before Postgres.
//!
//! Every snapshot has the place of its user's log that was reached before it was read. It is current while Postgres says that
//! the log ends there: one look-up by primary key instead of the query behind the snapshot, and right whoever wrote what. What
//! no log tells of (the names and pictures of others) is at most [`ChatCacheSettings::fresh`] old.
//!
//! Snapshots follow the log: an entry that is acknowledged here is folded into those that are where it follows (`fold`), so they
//! stay current, and have it when Postgres is away a moment later. After a gap, or when an entry does not tell enough, a snapshot
//! is left behind and read anew when it is asked for.
//!
//! When Postgres is away the last known snapshot is given as stale, unless it lacks what this node has acknowledged (`floors`).
//! Whom one may write to is never refused for that: the participants of a conversation do not change.
//!
//! Absence is not remembered: what is not there may be made at any time.

mod floors;
mod fold;
mod following;
mod mirror;
mod name;
mod snapshots;
mod trails;
mod turns;

use async_trait::async_trait;
use floors::Floors;
use fold::Fold;
use gravity_domain::auth::Username;
use gravity_domain::chat::{
    Blocked, ChatCache, ChatStore, Conversation, EventLog, Inbox, Known, LogHead, MessagePage, Person,
    UserEvent,
};
use gravity_domain::error::StoreError;
use gravity_domain::id::{ConversationId, UserId};
use gravity_domain::page::PageLimit;
use gravity_domain::sync::Freshness;
use gravity_domain::sync::ports::Breaker;
use mirror::Mirror;
use moka::sync::Cache;
use name::Name;
use snapshots::{Snapshot, Snapshots};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use trails::Trails;
use turns::Turns;

/// How many conversations are warmed up.
const WARM: usize = 5;
/// How long a person is the last known one.
const LAST_PERSON: Duration = Duration::from_secs(24 * 3_600);

/// How much is kept, and how long it is believed.
#[derive(Debug, Clone, Copy)]
pub struct ChatCacheSettings {
    /// Bytes of snapshots, roughly.
    pub bytes: u64,
    /// Users of whom it is known what was acknowledged to them (about 100 bytes each), and people by name.
    pub users: usize,
    /// How long what no log tells of is believed.
    pub fresh: Duration,
}

impl Default for ChatCacheSettings {
    fn default() -> Self {
        Self {
            bytes: 128 << 20,
            users: 100_000,
            fresh: Duration::from_secs(60),
        }
    }
}

/// What the cache stands on.
#[derive(Clone)]
pub struct ChatCachePorts {
    /// Chat in Postgres.
    pub store: Arc<dyn ChatStore>,
    /// The logs in Postgres.
    pub log: Arc<dyn EventLog>,
    /// The breaker before it.
    pub breaker: Arc<dyn Breaker>,
}

/// The cache. Share it by [`Arc`]; usable from any runtime.
pub struct CachedChat {
    ports: ChatCachePorts,
    fresh: Duration,
    inboxes: Snapshots<UserId, Inbox>,
    pages: Snapshots<Place, MessagePage>,
    conversations: Snapshots<Place, Conversation>,
    blocks: Snapshots<UserId, Vec<Blocked>>,
    people: Cache<Username, (Person, Instant)>,
    floors: Floors,
    trails: Trails,
    turns: Turns<Name>,
    mirror: Mirror,
}

impl std::fmt::Debug for CachedChat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedChat").finish_non_exhaustive()
    }
}

/// A conversation as one user sees it.
type Place = (UserId, ConversationId);

/// One thing of one user, and where its snapshots are.
struct Wanted<'a, K, T> {
    user: UserId,
    name: Name,
    key: K,
    held: &'a Snapshots<K, T>,
}

/// What a load found, and at which offset if it tells.
struct Loaded<T> {
    value: T,
    offset: u64,
}

fn found<T>(value: T) -> Loaded<T> {
    Loaded { value, offset: 0 }
}

fn current<T>(value: T) -> Known<T> {
    Known {
        value,
        freshness: Freshness::Current,
    }
}

fn stale<T>(value: T) -> Known<T> {
    Known {
        value,
        freshness: Freshness::Stale,
    }
}

fn whole<T>(known: Known<Option<T>>) -> Result<Known<T>, StoreError> {
    let Known { value, freshness } = known;
    let value = value.ok_or_else(|| StoreError::unavailable("closed"))?;
    Ok(Known { value, freshness })
}

impl CachedChat {
    /// An empty cache.
    pub fn new(settings: ChatCacheSettings, ports: ChatCachePorts) -> Self {
        let percent = |share: u64| settings.bytes / 100 * share;
        let people = u64::try_from(settings.users).unwrap_or(u64::MAX);
        Self {
            ports,
            fresh: settings.fresh,
            inboxes: Snapshots::new(percent(40)),
            pages: Snapshots::new(percent(40)),
            conversations: Snapshots::new(percent(8)),
            blocks: Snapshots::new(percent(4)),
            people: Cache::builder()
                .max_capacity(people)
                .time_to_live(LAST_PERSON)
                .build(),
            floors: Floors::new(settings.users),
            trails: Trails::new(percent(8)),
            turns: Turns::default(),
            mirror: Mirror::new(people),
        }
    }

    /// The bytes that snapshots take, roughly, after what is over the limit has gone.
    pub fn bytes(&self) -> u64 {
        let snapshots = self.inboxes.bytes() + self.pages.bytes() + self.conversations.bytes();
        snapshots + self.blocks.bytes() + self.trails.bytes()
    }

    fn may_read(&self) -> Result<(), StoreError> {
        if self.ports.breaker.allows_reads() {
            return Ok(());
        }
        Err(StoreError::unavailable("breaker_open"))
    }

    /// The end of the user's log, from Postgres. Never shared with another caller: one that was asked for earlier may lack what
    /// this caller knows of.
    async fn head(&self, user: UserId) -> Result<LogHead, StoreError> {
        self.may_read()?;
        self.trails.begin(user);
        let began = Instant::now();
        let head = LogHead::from(self.ports.log.head(user).await?);
        self.floors.asked(user, head, began);
        Ok(head)
    }

    fn is_current<T>(&self, user: UserId, snapshot: &Snapshot<T>, head: LogHead) -> bool {
        snapshot.reaches(head)
            && snapshot.read.elapsed() < self.fresh
            && !self.floors.doubted_since(user, snapshot.read)
    }

    /// The snapshot held, if it is current at `head`; else what `load` finds.
    async fn at<K, T>(
        &self,
        head: LogHead,
        wanted: &Wanted<'_, K, T>,
        load: impl Future<Output = Result<Option<Loaded<T>>, StoreError>> + Send,
    ) -> Result<Known<Option<Arc<T>>>, StoreError>
    where
        K: Hash + Eq + Clone + Send + Sync + 'static,
        T: Fold<K>,
    {
        let look = || {
            let held = wanted.held.get(&wanted.key)?;
            self.is_current(wanted.user, &held, head).then_some(held.value)
        };
        if let Some(value) = look() {
            wanted.name.count("hit");
            return Ok(current(Some(value)));
        }
        let _turn = self.turns.take(wanted.name.clone()).await?;
        if let Some(value) = look() {
            wanted.name.count("hit");
            return Ok(current(Some(value)));
        }
        self.may_read()?;
        wanted.name.count("miss");
        let read = Instant::now();
        let Some(Loaded { value, offset }) = load.await? else {
            wanted.held.forget(&wanted.key);
            return Ok(current(None));
        };
        let head = LogHead {
            offset: head.offset.max(offset),
            ..head
        };
        let snapshot = Snapshot::new(value, head, read);
        let value = snapshot.value.clone();
        self.keep(wanted, snapshot);
        Ok(current(Some(value)))
    }

    /// The same at the end of the log, or the last known.
    async fn get<K, T>(
        &self,
        wanted: Wanted<'_, K, T>,
        load: impl Future<Output = Result<Option<Loaded<T>>, StoreError>> + Send,
    ) -> Result<Known<Option<Arc<T>>>, StoreError>
    where
        K: Hash + Eq + Clone + Send + Sync + 'static,
        T: Fold<K>,
    {
        let read = async {
            let head = self.head(wanted.user).await?;
            self.at(head, &wanted, load).await
        };
        match read.await {
            Err(error) => {
                let held = wanted.held.get(&wanted.key);
                let value = self.last(wanted.user, &wanted.name, held, error)?;
                Ok(stale(Some(value)))
            }
            read => read,
        }
    }

    /// The last known, if it may be given after `error`.
    fn last<T>(
        &self,
        user: UserId,
        name: &Name,
        held: Option<Snapshot<T>>,
        error: StoreError,
    ) -> Result<Arc<T>, StoreError> {
        if !error.is_transient() {
            return Err(error);
        }
        let Some((held, floor)) = held.zip(self.floors.floor(user)) else {
            return Err(error);
        };
        if !held.is_above(floor) {
            return Err(error);
        }
        name.count("stale");
        Ok(held.value)
    }

    fn wanted_inbox(&self, user: UserId) -> Wanted<'_, UserId, Inbox> {
        Wanted {
            user,
            name: Name::Inbox(user),
            key: user,
            held: &self.inboxes,
        }
    }

    async fn load_inbox(&self, user: UserId) -> Result<Option<Loaded<Inbox>>, StoreError> {
        let inbox = self.ports.store.inbox(user).await?;
        inbox.conversations.iter().for_each(|seen| self.mirror.saw(seen));
        let offset = inbox.version;
        Ok(Some(Loaded { value: inbox, offset }))
    }

    fn wanted_messages(&self, user: UserId, id: ConversationId) -> Wanted<'_, Place, MessagePage> {
        Wanted {
            user,
            name: Name::Messages((user, id)),
            key: (user, id),
            held: &self.pages,
        }
    }

    async fn load_messages(
        &self,
        user: UserId,
        id: ConversationId,
    ) -> Result<Option<Loaded<MessagePage>>, StoreError> {
        let limit = PageLimit::new(PageLimit::MAX).unwrap_or_default();
        let page = self.ports.store.messages(user, id, None, limit).await?;
        Ok(page.map(found))
    }

    /// From an inbox that is current.
    fn listed(&self, user: UserId, id: ConversationId, head: LogHead) -> Option<Arc<Conversation>> {
        let inbox = self.inboxes.get(&user)?;
        if !self.is_current(user, &inbox, head) {
            return None;
        }
        inbox.value.find(id).cloned().map(Arc::new)
    }

    async fn find_conversation(
        &self,
        wanted: &Wanted<'_, Place, Conversation>,
    ) -> Result<Known<Option<Arc<Conversation>>>, StoreError> {
        let (user, id) = wanted.key;
        let head = self.head(user).await?;
        if let Some(listed) = self.listed(user, id, head) {
            wanted.name.count("hit");
            return Ok(current(Some(listed)));
        }
        let load = async {
            let conversation = self.ports.store.conversation(user, id).await?;
            conversation.iter().for_each(|seen| self.mirror.saw(seen));
            Ok(conversation.map(found))
        };
        self.at(head, wanted, load).await
    }

    /// The newest known of a conversation: by itself, or in an inbox.
    fn last_conversation(&self, user: UserId, id: ConversationId) -> Option<Snapshot<Conversation>> {
        let alone = self.conversations.get(&(user, id));
        let listed = self.inboxes.get(&user).and_then(|inbox| {
            let conversation = inbox.value.find(id)?.clone();
            Some(Snapshot::new(conversation, inbox.head, inbox.read))
        });
        match (alone, listed) {
            (Some(alone), Some(listed)) if alone.is_after(&listed) => Some(alone),
            (alone, listed) => listed.or(alone),
        }
    }

    async fn load_person(&self, username: &Username) -> Result<Option<Person>, StoreError> {
        self.may_read()?;
        let person = self.ports.store.person(username).await?;
        match &person {
            Some(person) => {
                let kept = (person.clone(), Instant::now());
                self.people.insert(username.clone(), kept);
            }
            None => self.people.invalidate(username),
        }
        Ok(person)
    }

    /// A person who was looked up a moment ago.
    fn fresh_person(&self, username: &Username) -> Option<Person> {
        let (person, since) = self.people.get(username)?;
        (since.elapsed() < self.fresh).then_some(person)
    }

    async fn find_person(&self, name: &Name, username: &Username) -> Result<Option<Person>, StoreError> {
        let _turn = self.turns.take(name.clone()).await?;
        if let Some(person) = self.fresh_person(username) {
            name.count("hit");
            return Ok(Some(person));
        }
        name.count("miss");
        self.load_person(username).await
    }

    async fn try_warm(&self, user: UserId) -> Result<(), StoreError> {
        let head = self.head(user).await?;
        let load = self.load_inbox(user);
        let inbox = whole(self.at(head, &self.wanted_inbox(user), load).await?)?;
        for conversation in inbox.value.conversations.iter().take(WARM) {
            let load = self.load_messages(user, conversation.id);
            let wanted = self.wanted_messages(user, conversation.id);
            self.at(head, &wanted, load).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl ChatCache for CachedChat {
    async fn inbox(&self, user: UserId) -> Result<Known<Arc<Inbox>>, StoreError> {
        let load = self.load_inbox(user);
        whole(self.get(self.wanted_inbox(user), load).await?)
    }

    async fn conversation(
        &self,
        user: UserId,
        id: ConversationId,
    ) -> Result<Known<Option<Arc<Conversation>>>, StoreError> {
        let wanted = Wanted {
            user,
            name: Name::Conversation((user, id)),
            key: (user, id),
            held: &self.conversations,
        };
        match self.find_conversation(&wanted).await {
            Err(error) => {
                let held = self.last_conversation(user, id);
                let value = self.last(user, &wanted.name, held, error)?;
                Ok(stale(Some(value)))
            }
            found => found,
        }
    }

    async fn newest_messages(
        &self,
        user: UserId,
        id: ConversationId,
    ) -> Result<Known<Option<Arc<MessagePage>>>, StoreError> {
        let load = self.load_messages(user, id);
        self.get(self.wanted_messages(user, id), load).await
    }

    async fn blocks(&self, user: UserId) -> Result<Known<Arc<Vec<Blocked>>>, StoreError> {
        let wanted = Wanted {
            user,
            name: Name::Blocks(user),
            key: user,
            held: &self.blocks,
        };
        let load = async { Ok(Some(found(self.ports.store.blocks(user).await?))) };
        whole(self.get(wanted, load).await?)
    }

    async fn person(&self, username: &Username) -> Result<Option<Person>, StoreError> {
        let name = Name::Person(username.clone());
        if let Some(person) = self.fresh_person(username) {
            name.count("hit");
            return Ok(Some(person));
        }
        match self.find_person(&name, username).await {
            Err(error) if error.is_transient() => {
                let (person, _) = self.people.get(username).ok_or(error)?;
                name.count("stale");
                Ok(Some(person))
            }
            found => found,
        }
    }

    fn known_conversation(&self, user: UserId, id: ConversationId) -> Option<Option<Arc<Conversation>>> {
        let last = self.last_conversation(user, id).map(|snapshot| snapshot.value);
        last.or_else(|| self.mirror.of(user, id)).map(Some)
    }

    async fn warm(&self, user: UserId) {
        if let Err(error) = self.try_warm(user).await {
            tracing::debug!(%error, "nothing could be warmed up");
        }
    }

    fn raised(&self, events: &[UserEvent]) {
        for (n, UserEvent { user_id: user, .. }) in events.iter().enumerate() {
            if events[..n].iter().all(|before| before.user_id != *user) {
                self.follow(*user, events.iter().filter(|event| event.user_id == *user));
            }
        }
        for event in events {
            self.floors.raised(event.user_id, event.offset);
        }
    }

    fn doubted(&self, user: UserId) {
        self.floors.doubted(user);
    }
}
