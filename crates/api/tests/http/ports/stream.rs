//! The ports of the stream in memory: the rows, and a cache over them that keeps every page it has answered with.

use super::{Memory, on};
use async_trait::async_trait;
use gravity_domain::clock::{Hlc, Timestamp};
use gravity_domain::error::StoreError;
use gravity_domain::id::{ItemId, MessageId, PersonId, UserId};
use gravity_domain::page::{Page, PageKey, PageLimit};
use gravity_domain::stream::{
    ActionReceipt, Cached, Changes, HtmlSanitizer, Ingested, Item, ItemChange, ItemDetail, ItemKey,
    ItemOutcome, Message, NewItem, NewMessage, NewPerson, Person, Raised, Removed, Selection, StreamAction,
    StreamCache, StreamFilter, StreamPage, StreamQuery, StreamStore, Versioned,
};
use gravity_domain::sync::ports::{EntityCache, EntityStore};
use gravity_domain::sync::{Applied, Entity as _, Found, Freshness, Lww, Operation, Verdict};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use uuid::Uuid;

/// When everything was seen first.
const ARRIVED: Timestamp = Timestamp::EPOCH;

#[derive(Default)]
pub(crate) struct Streams {
    items: BTreeMap<ItemId, (Item, Vec<Message>)>,
    removed: BTreeMap<ItemId, (UserId, u64)>,
    versions: HashMap<UserId, u64>,
    pages: HashMap<(UserId, StreamQuery), Arc<StreamPage>>,
}

impl Streams {
    fn raise(&mut self, user: UserId) -> u64 {
        let version = self.versions.entry(user).or_default();
        *version += 1;
        *version
    }

    pub(crate) fn forget_pages(&mut self) {
        self.pages.clear();
    }

    fn of(&self, user: UserId) -> impl Iterator<Item = &Item> {
        let rows = self.items.values().map(|(item, _)| item);
        rows.filter(move |item| item.user_id == user)
    }

    fn version(&self, user: UserId) -> u64 {
        self.versions.get(&user).copied().unwrap_or(0)
    }

    fn page(&self, user: UserId, query: &StreamQuery) -> StreamPage {
        let reaches = |item: &&Item| query.after.is_none_or(|after| item.page_key() < after);
        let mut items: Vec<Item> = self
            .of(user)
            .filter(|item| query.filter.shows(item))
            .filter(reaches)
            .cloned()
            .collect();
        items.sort_by_key(|item| std::cmp::Reverse(item.page_key()));
        let more = items.len() > query.limit.get();
        items.truncate(query.limit.get());
        StreamPage {
            version: self.version(user),
            unread_count: self.of(user).filter(|item| item.counts_as_unread()).count() as u64,
            as_of: Timestamp::from_millis(1_700_000_000_000),
            next: items.last().filter(|_| more).map(Item::page_key),
            items: items.into_iter().map(Arc::new).collect(),
            rendered: OnceLock::new(),
        }
    }

    /// What the statement does: all of it, or what the row says.
    pub(super) fn act(&mut self, operation: &Operation, action: &StreamAction) -> Verdict {
        let user = operation.user_id;
        let next = self.version(user) + 1;
        let mut changed = false;
        let mut results = Vec::new();
        for id in &action.ids {
            let row = self.items.get_mut(id).filter(|(item, _)| item.user_id == user);
            let outcome = match row {
                None => ItemOutcome::NotFound,
                Some((item, _)) if action.skips(item) => ItemOutcome::Skipped,
                Some((item, _)) => {
                    if action.fold(operation.accepted_at, item) {
                        item.version = next;
                        changed = true;
                    }
                    ItemOutcome::Applied
                }
            };
            results.push((*id, outcome));
        }
        let version = if changed {
            self.raise(user)
        } else {
            self.version(user)
        };
        let receipt = ActionReceipt {
            id: operation.id.0,
            user_id: user,
            stamp: operation.accepted_at,
            action: Some(action.action),
            results,
            version: Some(version),
        };
        Verdict::Applied(Applied {
            superseded: false,
            state: receipt.into_state(),
        })
    }
}

fn person(key: &ItemKey, new: &NewPerson) -> Person {
    let source = key.source.as_str();
    let id = match &new.external_id {
        Some(external_id) => PersonId::of(key.user_id, source, external_id.as_str()),
        None => PersonId::of_name(key.user_id, source, new.name.as_str()),
    };
    Person {
        id,
        name: new.name.clone(),
        avatar_url: new.avatar_url.clone(),
    }
}

fn message(key: &ItemKey, new: &NewMessage) -> Message {
    let sender = new.sender_external_id.as_ref();
    Message {
        id: MessageId::of(key.item_id(), new.external_id.as_str()),
        sender_id: sender.map(|id| PersonId::of(key.user_id, key.source.as_str(), id.as_str())),
        sender_name: new.sender_name.clone(),
        sender_type: new.sender_type,
        content_type: new.content_type,
        content: new.content.clone(),
        full_content_html: new.full_content_html.clone(),
        timestamp: new.timestamp,
        event_details: new.event_details.clone(),
        social_details: new.social_details.clone(),
        attachments: new.attachments.clone(),
        ai_insights: new.ai_insights.clone(),
    }
}

fn row(new: &NewItem, old: Option<&Item>, stamp: Hlc) -> Item {
    let flag = |given: Option<bool>, known: Option<Lww<bool>>, default| match (given, known) {
        (Some(value), Some(known)) if known.value == value => known,
        (Some(value), _) => Lww::new(value, stamp),
        (None, Some(known)) => known,
        (None, None) => Lww::new(default, Hlc::ZERO),
    };
    Item {
        id: new.key.item_id(),
        user_id: new.key.user_id,
        title: new.title.clone(),
        source: new.key.source.clone(),
        priority: new.priority,
        unread: flag(new.flags.is_unread, old.map(|old| old.unread.clone()), true),
        archived: flag(new.flags.is_archived, old.map(|old| old.archived.clone()), false),
        snippet: new.snippet.clone(),
        timestamp: new.timestamp,
        arrived_at: ARRIVED,
        participants: new.participants.iter().map(|one| person(&new.key, one)).collect(),
        version: old.map_or(0, |old| old.version),
    }
}

#[async_trait]
impl StreamStore for Memory {
    async fn version(&self, user: UserId) -> Result<u64, StoreError> {
        self.postgres()?;
        Ok(self.streams.lock().unwrap().version(user))
    }

    async fn page(&self, user: UserId, query: &StreamQuery) -> Result<StreamPage, StoreError> {
        self.postgres()?;
        self.pages_loaded.fetch_add(1, Ordering::SeqCst);
        Ok(self.streams.lock().unwrap().page(user, query))
    }

    async fn detail(&self, user: UserId, id: ItemId) -> Result<Versioned<Option<ItemDetail>>, StoreError> {
        self.postgres()?;
        let streams = self.streams.lock().unwrap();
        let row = streams.items.get(&id).filter(|(item, _)| item.user_id == user);
        let detail = row.map(|(item, all)| {
            let mut messages = all.clone();
            messages.sort_by_key(|message| std::cmp::Reverse(message.page_key()));
            let more = messages.len() > 50;
            messages.truncate(50);
            ItemDetail {
                item: item.clone(),
                next: messages.last().filter(|_| more).map(Message::page_key),
                messages,
                as_of: ARRIVED,
                rendered: OnceLock::new(),
            }
        });
        Ok(Versioned {
            value: detail,
            version: streams.version(user),
        })
    }

    async fn items(&self, user: UserId, ids: &[ItemId]) -> Result<Vec<Item>, StoreError> {
        self.postgres()?;
        let streams = self.streams.lock().unwrap();
        Ok(streams
            .of(user)
            .filter(|item| ids.contains(&item.id))
            .cloned()
            .collect())
    }

    async fn messages(
        &self,
        user: UserId,
        id: ItemId,
        after: Option<PageKey>,
        limit: PageLimit,
    ) -> Result<Option<Page<Message>>, StoreError> {
        self.postgres()?;
        let streams = self.streams.lock().unwrap();
        let row = streams.items.get(&id).filter(|(item, _)| item.user_id == user);
        Ok(row.map(|(_, all)| {
            let reaches = |message: &&Message| after.is_none_or(|after| message.page_key() < after);
            let mut items: Vec<Message> = all.iter().filter(reaches).cloned().collect();
            items.sort_by_key(|message| std::cmp::Reverse(message.page_key()));
            let more = items.len() > limit.get();
            items.truncate(limit.get());
            let next = items.last().filter(|_| more).map(Message::page_key);
            Page { items, next }
        }))
    }

    async fn changes(&self, user: UserId, since: u64) -> Result<Versioned<Option<Changes>>, StoreError> {
        self.postgres()?;
        let streams = self.streams.lock().unwrap();
        let version = streams.version(user);
        let changed = streams.of(user).filter(|item| item.version > since);
        let removed = streams.removed.iter();
        let removed = removed.filter(|(_, (owner, at))| *owner == user && *at > since);
        let changes = Changes {
            changed: changed.map(|item| item.id).collect(),
            removed: removed.map(|(id, _)| *id).collect(),
            version,
            has_more: false,
        };
        Ok(Versioned {
            value: (!on(&self.purged)).then_some(changes),
            version,
        })
    }

    async fn select(
        &self,
        user: UserId,
        filter: &StreamFilter,
        as_of: Timestamp,
        limit: usize,
    ) -> Result<Selection, StoreError> {
        self.postgres()?;
        let streams = self.streams.lock().unwrap();
        let found = streams.of(user);
        let found =
            found.filter(|item| filter.shows(item) && item.timestamp <= as_of && item.arrived_at <= as_of);
        let mut ids: Vec<ItemId> = found.map(|item| item.id).collect();
        let has_more = ids.len() > limit;
        ids.truncate(limit);
        Ok(Selection { ids, has_more })
    }

    async fn ingest(&self, items: &[NewItem], stamp: Hlc) -> Result<Ingested, StoreError> {
        self.postgres()?;
        let mut streams = self.streams.lock().unwrap();
        let mut done = Ingested::default();
        for new in items {
            let (id, user) = (new.key.item_id(), new.key.user_id);
            let old = streams.items.get(&id).cloned();
            let mut item = row(new, old.as_ref().map(|(item, _)| item), stamp);
            let mut messages = old.as_ref().map(|(_, all)| all.clone()).unwrap_or_default();
            for told in new.messages.iter().map(|told| message(&new.key, told)) {
                messages.retain(|known| known.id != told.id);
                messages.push(told);
            }
            let change = match &old {
                None => ItemChange::Created,
                Some(old) if *old == (item.clone(), messages.clone()) => ItemChange::Unchanged,
                Some(_) => ItemChange::Updated,
            };
            if change != ItemChange::Unchanged {
                item.version = streams.raise(user);
                streams.removed.remove(&id);
                streams.items.insert(id, (item, messages));
            }
            done.changes.push((id, change));
            done.versions.retain(|(known, _)| *known != user);
            done.versions.push((user, streams.version(user)));
        }
        Ok(done)
    }

    async fn remove(&self, keys: &[ItemKey]) -> Result<Removed, StoreError> {
        self.postgres()?;
        let mut streams = self.streams.lock().unwrap();
        let mut done = Removed::default();
        for key in keys {
            let was_there = streams.items.remove(&key.item_id()).is_some();
            if was_there {
                let version = streams.raise(key.user_id);
                streams.removed.insert(key.item_id(), (key.user_id, version));
            }
            done.removed.push(was_there);
            done.versions.retain(|(known, _)| *known != key.user_id);
            done.versions.push((key.user_id, streams.version(key.user_id)));
        }
        Ok(done)
    }
}

fn current<T>(value: T) -> Cached<T> {
    Cached {
        value,
        freshness: Freshness::Current,
        age_seconds: 0,
    }
}

#[async_trait]
impl StreamCache for Memory {
    async fn version(&self, user: UserId, at_least: u64) -> Option<u64> {
        let known = (!on(&self.postgres_down)).then(|| self.streams.lock().unwrap().version(user));
        known.filter(|known| *known >= at_least)
    }

    async fn page(
        &self,
        user: UserId,
        query: &StreamQuery,
        at_least: u64,
    ) -> Result<Cached<Arc<StreamPage>>, StoreError> {
        let key = (user, query.clone());
        let known = self.streams.lock().unwrap().pages.get(&key).cloned();
        if let Some(version) = StreamCache::version(self, user, 0).await {
            if let Some(page) = known.filter(|page| page.version == version) {
                return Ok(current(page));
            }
            let page = Arc::new(StreamStore::page(self, user, query).await?);
            self.streams.lock().unwrap().pages.insert(key, Arc::clone(&page));
            return Ok(current(page));
        }
        let page = known.filter(|page| page.version >= at_least);
        Ok(Cached {
            value: page.ok_or_else(|| StoreError::unavailable("connect"))?,
            freshness: Freshness::Stale,
            age_seconds: 7,
        })
    }

    async fn detail(
        &self,
        user: UserId,
        id: ItemId,
        _: u64,
    ) -> Result<Cached<Option<Arc<ItemDetail>>>, StoreError> {
        let found = StreamStore::detail(self, user, id).await?;
        Ok(current(found.value.map(Arc::new)))
    }

    async fn items(
        &self,
        user: UserId,
        ids: &[ItemId],
        _: bool,
    ) -> Result<Vec<Option<Arc<Item>>>, StoreError> {
        let streams = self.streams.lock().unwrap();
        let known = |id: &ItemId| {
            streams
                .of(user)
                .find(|item| item.id == *id)
                .cloned()
                .map(Arc::new)
        };
        Ok(ids.iter().map(known).collect())
    }

    async fn ever_known(
        &self,
        user: UserId,
        ids: &[ItemId],
        may_ask_store: bool,
    ) -> Result<Vec<Option<Arc<Item>>>, StoreError> {
        StreamCache::items(self, user, ids, may_ask_store).await
    }

    fn newer(&self, _: UserId, _: &[Arc<Item>]) -> Vec<Arc<Item>> {
        Vec::new()
    }
    fn raised(&self, _: &[Raised]) {}
    fn acted(&self, _: &ActionReceipt) {}
    fn acted_since(&self, _: UserId, _: u64) -> Vec<(Hlc, StreamAction)> {
        Vec::new()
    }
    fn stirred(&self, _: UserId) {}
    fn doubted(&self, _: UserId) {}
}

/// Takes out what the tests put in.
impl HtmlSanitizer for Memory {
    fn clean(&self, html: &str) -> String {
        html.replace("<script>", "")
    }
}

#[async_trait]
impl EntityStore<ActionReceipt> for Memory {
    async fn find(&self, _: UserId, _: Uuid) -> Result<Option<ActionReceipt>, StoreError> {
        self.postgres().map(|()| None)
    }
}

impl EntityCache<ActionReceipt> for Memory {
    fn find(&self, _: UserId, _: Uuid) -> Found<ActionReceipt> {
        Found::Absent
    }

    fn learn(&self, _: ActionReceipt) {}

    fn mark(&self, _: UserId) -> u64 {
        0
    }

    fn learn_read(&self, _: ActionReceipt, _: u64) {}
}
