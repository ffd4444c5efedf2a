//! Level 2: what all nodes share, in Redis.
//!
//! A page is ids with versions, and each item lies under its own id and version. What is read is checked: a value that is not what
//! its key says is a miss, counted. Everything here is best effort; the caller takes an error for a miss.

use super::metrics::{Kind, malformed};
use super::tracking::version_key;
use super::versions::CLEAN;
use crate::redis::{PREFIX, Redis};
use aws_lc_rs::digest::{SHA256, digest};
use gravity_domain::clock::Timestamp;
use gravity_domain::error::StoreError;
use gravity_domain::id::{ItemId, UserId};
use gravity_domain::page::PageKey;
use gravity_domain::stream::{Item, ItemDetail, StreamPage, StreamQuery};
use redis::{Pipeline, Script, cmd, pipe};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const LIFE_MS: u64 = 5 * 60 * 1_000;
/// Items outlive the pages that name them, also those written later without them.
const ITEM_LIFE_MS: u64 = LIFE_MS + LIFE_MS / 10 + WRITTEN_MS + 30_000;
const LAST_LIFE_MS: u64 = 24 * 3_600 * 1_000;
/// For how long a newer page need not write the items again that were written with an older one.
pub(super) const WRITTEN_MS: u64 = 2 * 60 * 1_000;
/// How long one node may load before another does.
pub(super) const LEASE: Duration = Duration::from_secs(2);

/// The commands.
pub(super) struct Shared {
    redis: Redis,
    raise: Script,
}

/// A page as ids.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Outline {
    user: UserId,
    version: u64,
    unread_count: u64,
    as_of: Timestamp,
    next: Option<PageKey>,
    pub(super) items: Vec<(ItemId, u64)>,
}

impl Outline {
    fn of(user: UserId, page: &StreamPage) -> Self {
        Self {
            user,
            version: page.version,
            unread_count: page.unread_count,
            as_of: page.as_of,
            next: page.next,
            items: page.items.iter().map(|item| (item.id, item.version)).collect(),
        }
    }

    /// The page, when every item is as the outline says.
    pub(super) fn fill(self, items: Vec<Arc<Item>>) -> Option<StreamPage> {
        let good = |(item, (id, version)): (&Arc<Item>, &(ItemId, u64))| {
            item.id == *id && item.version == *version && item.user_id == self.user
        };
        let matches = items.len() == self.items.len() && items.iter().zip(&self.items).all(good);
        matches.then(|| StreamPage {
            version: self.version,
            unread_count: self.unread_count,
            as_of: self.as_of,
            items,
            next: self.next,
            rendered: OnceLock::new(),
        })
    }
}

#[derive(Serialize)]
struct WholePage<'a> {
    page: Outline,
    items: Vec<&'a Item>,
}

#[derive(Deserialize)]
struct FoundPage {
    page: Outline,
    items: Vec<SharedItem>,
}

/// An item read from JSON, shared from the start.
#[derive(Deserialize)]
#[serde(from = "Item")]
struct SharedItem(Arc<Item>);

impl From<Item> for SharedItem {
    fn from(item: Item) -> Self {
        Self(Arc::new(item))
    }
}

#[derive(Serialize)]
struct KeptDetail<'a> {
    version: u64,
    detail: &'a ItemDetail,
}

#[derive(Deserialize)]
struct FoundDetail {
    version: u64,
    detail: ItemDetail,
}

/// What lies under a key.
pub(super) type Raw = Option<Vec<u8>>;
/// A page, with those of its items that are there.
type FoundPart = (Outline, Vec<Option<Arc<Item>>>);

fn decode<T: DeserializeOwned>(kind: Kind, raw: &[u8]) -> Option<T> {
    let value = serde_json::from_slice(raw).ok();
    if value.is_none() {
        malformed(kind);
    }
    value
}

fn checked<T>(kind: Kind, value: Option<T>, good: impl FnOnce(&T) -> bool) -> Option<T> {
    let value = value?;
    let good = good(&value);
    if !good {
        malformed(kind);
    }
    good.then_some(value)
}

fn found_detail(raw: Raw, user: UserId, id: ItemId) -> Option<FoundDetail> {
    let found = raw.and_then(|raw| decode::<FoundDetail>(Kind::Detail, &raw));
    checked(Kind::Detail, found, |found| {
        found.detail.item.id == id && found.detail.item.user_id == user
    })
}

/// The detail that was read under its key.
pub(super) fn detail_of(raw: Raw, user: UserId, version: u64, id: ItemId) -> Option<ItemDetail> {
    let found = checked(Kind::Detail, found_detail(raw, user, id), |found| {
        found.version == version
    });
    found.map(|found| found.detail)
}

fn hash(query: &StreamQuery) -> String {
    use std::fmt::Write as _;
    let text = serde_json::to_vec(query).unwrap_or_default();
    let mut hex = String::with_capacity(32);
    for byte in &digest(&SHA256, &text).as_ref()[..16] {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// The key of a page at a version.
pub(super) fn page_key(user: UserId, version: u64, query: &StreamQuery) -> String {
    format!("{PREFIX}stream:page:{user}:{version}:{}", hash(query))
}

/// The key of a detail at a version.
pub(super) fn detail_key(user: UserId, version: u64, id: ItemId) -> String {
    format!("{PREFIX}stream:detail:{user}:{version}:{id}")
}

fn item_key(id: ItemId, version: u64) -> String {
    format!("{PREFIX}stream:item:{id}:{version}")
}

fn last_page_key(user: UserId, query: &StreamQuery) -> String {
    format!("{PREFIX}stream:last:page:{user}:{}", hash(query))
}

fn last_detail_key(user: UserId, id: ItemId) -> String {
    format!("{PREFIX}stream:last:detail:{user}:{id}")
}

fn acted_key(user: UserId) -> String {
    format!("{PREFIX}stream:acted:{user}")
}

fn last_item_key(user: UserId, id: ItemId) -> String {
    format!("{PREFIX}stream:last:item:{user}:{id}")
}

/// Five minutes, a tenth more or less.
fn life() -> u64 {
    LIFE_MS - LIFE_MS / 10 + rand::random_range(0..=LIFE_MS / 5)
}

fn set(pipeline: &mut Pipeline, key: String, value: &impl Serialize, life_ms: u64) {
    if let Ok(json) = serde_json::to_vec(value) {
        pipeline
            .cmd("SET")
            .arg(key)
            .arg(json)
            .arg("PX")
            .arg(life_ms)
            .ignore();
    }
}

impl Shared {
    pub(super) fn new(redis: Redis) -> Self {
        Self {
            redis,
            raise: Script::new(include_str!("raise.lua")),
        }
    }

    /// False while its breaker is open.
    pub(super) fn is_up(&self) -> bool {
        self.redis.is_up()
    }

    /// The user's version, and for how long Redis will still hold it.
    pub(super) async fn version(
        &self,
        run_id: &str,
        user: UserId,
    ) -> Result<Option<(u64, Duration)>, StoreError> {
        let key = version_key(run_id, user);
        let mut both = pipe();
        both.cmd("GET").arg(&key).cmd("PTTL").arg(&key);
        let (raw, ttl): (Raw, i64) = self.redis.pipeline("stream_version", &both).await?;
        let Some(raw) = raw else { return Ok(None) };
        let version = std::str::from_utf8(&raw).ok().and_then(|text| text.parse().ok());
        let life = u64::try_from(ttl).ok().filter(|ttl| *ttl > 0);
        if version.is_none() {
            malformed(Kind::Version);
        }
        Ok(version.zip(life.map(Duration::from_millis)))
    }

    /// Tells the versions of users' newest actions.
    pub(super) async fn tell_acted(&self, versions: &[(UserId, u64)]) -> Result<(), StoreError> {
        let mut call = self.raise.prepare_invoke();
        call.arg(LAST_LIFE_MS + 60_000);
        for (user, version) in versions {
            call.key(acted_key(*user)).arg(*version);
        }
        let told: Vec<u64> = self.redis.script("stream_acted", &call).await?;
        drop(told);
        Ok(())
    }

    /// The version of the user's newest action, 0 when there is none that a last known value could lack.
    pub(super) async fn acted(&self, user: UserId) -> Result<u64, StoreError> {
        let key = acted_key(user);
        let raw: Raw = self.redis.command("stream_acted", cmd("GET").arg(key)).await?;
        let Some(raw) = raw else { return Ok(0) };
        let version = std::str::from_utf8(&raw).ok().and_then(|text| text.parse().ok());
        version.ok_or_else(|| {
            malformed(Kind::Version);
            StoreError::unavailable("malformed")
        })
    }

    /// Raises versions, and answers what they are then.
    pub(super) async fn raise(
        &self,
        run_id: &str,
        versions: &[(UserId, u64)],
    ) -> Result<Vec<u64>, StoreError> {
        let mut call = self.raise.prepare_invoke();
        call.arg(u64::try_from(CLEAN.as_millis()).unwrap_or(u64::MAX));
        for (user, version) in versions {
            call.key(version_key(run_id, *user)).arg(*version);
        }
        self.redis.script("stream_raise", &call).await
    }

    /// Lets everyone hear that these versions are there, but keeps none: newer ones may have gone untold meanwhile.
    pub(super) async fn only_announce(
        &self,
        run_id: &str,
        versions: &[(UserId, u64)],
    ) -> Result<(), StoreError> {
        let mut all = pipe();
        for (user, version) in versions {
            let key = version_key(run_id, *user);
            all.cmd("SET").arg(key).arg(*version).arg("PX").arg(1).ignore();
        }
        self.redis.pipeline("stream_announce", &all).await
    }

    /// What lies under the key of a page or a detail.
    pub(super) async fn get(&self, kind: Kind, key: &str) -> Result<Raw, StoreError> {
        let name = match kind {
            Kind::Page => "stream_page",
            Kind::Detail | Kind::Version => "stream_detail",
        };
        self.redis.command(name, cmd("GET").arg(key)).await
    }

    /// A page, as far as it is there.
    pub(super) async fn page(
        &self,
        raw: Raw,
        user: UserId,
        version: u64,
    ) -> Result<Option<FoundPart>, StoreError> {
        let outline = raw.and_then(|raw| decode::<Outline>(Kind::Page, &raw));
        let is_its = |page: &Outline| page.user == user && page.version == version;
        let Some(outline) = checked(Kind::Page, outline, is_its) else {
            return Ok(None);
        };
        if outline.items.is_empty() {
            return Ok(Some((outline, Vec::new())));
        }
        let keys: Vec<String> = outline
            .items
            .iter()
            .map(|(id, version)| item_key(*id, *version))
            .collect();
        let raw: Vec<Raw> = self.redis.command("stream_items", cmd("MGET").arg(keys)).await?;
        let items = raw.into_iter().zip(&outline.items).map(|(raw, (id, version))| {
            let item = decode::<Item>(Kind::Page, &raw?);
            let is_its = |item: &Item| item.id == *id && item.version == *version && item.user_id == user;
            checked(Kind::Page, item, is_its).map(Arc::new)
        });
        let items = items.collect();
        Ok(Some((outline, items)))
    }

    /// Keeps a page, as that of its version and as the last known, with its items but for those of `written`, and lets go
    /// of a lease.
    pub(super) async fn keep_page(
        &self,
        user: UserId,
        query: &StreamQuery,
        page: &StreamPage,
        written: Option<&StreamPage>,
        lease: Option<&str>,
    ) -> Result<(), StoreError> {
        let mut all = pipe();
        let life = life();
        let is_written = |item: &Arc<Item>| {
            let written = written.map_or(&[][..], |page| &page.items);
            written.iter().any(|other| Arc::ptr_eq(item, other))
        };
        for item in page.items.iter().filter(|item| !is_written(item)) {
            set(
                &mut all,
                item_key(item.id, item.version),
                item.as_ref(),
                ITEM_LIFE_MS,
            );
            set(
                &mut all,
                last_item_key(user, item.id),
                item.as_ref(),
                LAST_LIFE_MS,
            );
        }
        set(
            &mut all,
            page_key(user, page.version, query),
            &Outline::of(user, page),
            life,
        );
        let whole = WholePage {
            page: Outline::of(user, page),
            items: page.items.iter().map(AsRef::as_ref).collect(),
        };
        set(&mut all, last_page_key(user, query), &whole, LAST_LIFE_MS);
        let_go(&mut all, lease);
        self.redis.pipeline("stream_keep_page", &all).await
    }

    /// The last known of a page.
    pub(super) async fn last_page(
        &self,
        user: UserId,
        query: &StreamQuery,
    ) -> Result<Option<StreamPage>, StoreError> {
        let key = last_page_key(user, query);
        let raw: Raw = self
            .redis
            .command("stream_last_page", cmd("GET").arg(key))
            .await?;
        let found = raw.and_then(|raw| decode::<FoundPage>(Kind::Page, &raw));
        let found = checked(Kind::Page, found, |found| found.page.user == user);
        let page = found.map(|found| {
            let items = found.items.into_iter().map(|item| item.0).collect();
            found.page.fill(items)
        });
        Ok(checked(Kind::Page, page, Option::is_some).flatten())
    }

    /// The last known of a detail, and its user's version then.
    pub(super) async fn last_detail(
        &self,
        user: UserId,
        id: ItemId,
    ) -> Result<Option<(u64, ItemDetail)>, StoreError> {
        let key = last_detail_key(user, id);
        let raw: Raw = self
            .redis
            .command("stream_last_detail", cmd("GET").arg(key))
            .await?;
        Ok(found_detail(raw, user, id).map(|found| (found.version, found.detail)))
    }

    /// Keeps a detail, as that of its version and as the last known, and lets go of a lease.
    pub(super) async fn keep_detail(
        &self,
        version: u64,
        detail: &ItemDetail,
        lease: Option<&str>,
    ) -> Result<(), StoreError> {
        let (user, id) = (detail.item.user_id, detail.item.id);
        let mut all = pipe();
        let kept = KeptDetail { version, detail };
        set(&mut all, detail_key(user, version, id), &kept, life());
        set(&mut all, last_detail_key(user, id), &kept, LAST_LIFE_MS);
        set(&mut all, last_item_key(user, id), &detail.item, LAST_LIFE_MS);
        let_go(&mut all, lease);
        self.redis.pipeline("stream_keep_detail", &all).await
    }

    /// The item is not there any more; lets go of a lease.
    pub(super) async fn forget_item(
        &self,
        user: UserId,
        id: ItemId,
        lease: Option<&str>,
    ) -> Result<(), StoreError> {
        let mut gone = cmd("DEL");
        gone.arg(last_detail_key(user, id)).arg(last_item_key(user, id));
        if let Some(key) = lease {
            gone.arg(lease_key(key));
        }
        self.redis.command("stream_forget", &gone).await
    }

    /// The last known of items, in the order asked.
    pub(super) async fn last_items(
        &self,
        user: UserId,
        ids: &[ItemId],
    ) -> Result<Vec<Option<Item>>, StoreError> {
        let keys: Vec<String> = ids.iter().map(|id| last_item_key(user, *id)).collect();
        let raw: Vec<Raw> = self
            .redis
            .command("stream_last_items", cmd("MGET").arg(keys))
            .await?;
        let items = raw.into_iter().zip(ids).map(|(raw, id)| {
            let item = decode::<Item>(Kind::Detail, &raw?);
            checked(Kind::Detail, item, |item| item.id == *id && item.user_id == user)
        });
        Ok(items.collect())
    }

    /// Whether this node is to load what `key` names, and what lies there.
    pub(super) async fn lease(&self, key: &str) -> Result<(bool, Raw), StoreError> {
        let life = u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX);
        let mut both = pipe();
        both.cmd("SET")
            .arg(lease_key(key))
            .arg(1)
            .arg("NX")
            .arg("PX")
            .arg(life);
        both.cmd("GET").arg(key);
        let (taken, raw): (Option<String>, Raw) = self.redis.pipeline("stream_lease", &both).await?;
        Ok((taken.is_some(), raw))
    }

    /// Lets others load.
    pub(super) async fn release(&self, key: &str) -> Result<(), StoreError> {
        self.redis
            .command("stream_release", cmd("DEL").arg(lease_key(key)))
            .await
    }
}

fn let_go(pipeline: &mut Pipeline, lease: Option<&str>) {
    if let Some(key) = lease {
        pipeline.cmd("DEL").arg(lease_key(key)).ignore();
    }
}

fn lease_key(key: &str) -> String {
    let name = key.strip_prefix(PREFIX).unwrap_or(key);
    format!("{PREFIX}stream:lease:{name}")
}
