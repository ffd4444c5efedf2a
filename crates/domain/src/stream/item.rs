//! An item of the stream.

use super::message::Message;
use crate::clock::Timestamp;
use crate::id::{ItemId, PersonId, UserId};
use crate::page::PageKey;
use crate::profile::AvatarUrl;
use crate::sync::merge::Lww;
use crate::text::{single_line, text_type};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, OnceLock};

text_type!(
    /// What an item is about: one line of 1..=255 code points.
    ItemTitle,
    |raw| single_line(raw, 1, 255)
);
text_type!(
    /// Where an item comes from (`email`, `calendar`, `social`, `chat`, `tasks`, or any other): one line of 1..=50 code points.
    Source,
    |raw| single_line(raw, 1, 50)
);
text_type!(
    /// The first words of an item: one line of 0..=500 code points.
    Snippet,
    |raw| single_line(raw, 0, 500)
);
text_type!(
    /// What the source calls a thing: one line of 1..=255 code points.
    ExternalId,
    |raw| single_line(raw, 1, 255)
);
text_type!(
    /// What a person is called: one line of 1..=255 code points.
    PersonName,
    |raw| single_line(raw, 1, 255)
);

/// How much an item matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemPriority {
    /// Now.
    High,
    /// Today.
    Medium,
    /// Some day.
    Low,
}

impl ItemPriority {
    /// Every priority.
    pub const ALL: [Self; 3] = [Self::High, Self::Medium, Self::Low];

    /// The name in the API and in Postgres.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }

    /// The priority of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|priority| priority.as_str() == name)
    }
}

/// Somebody who takes part in an item; need not be a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// Derived from owner, source and external id (or name).
    pub id: PersonId,
    /// What they are called.
    pub name: PersonName,
    /// Their picture.
    pub avatar_url: Option<AvatarUrl>,
}

/// One thing that needs attention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Derived from owner, source and external id.
    pub id: ItemId,
    /// The owner.
    pub user_id: UserId,
    /// What it is about.
    pub title: ItemTitle,
    /// Where it comes from.
    pub source: Source,
    /// How much it matters.
    pub priority: ItemPriority,
    /// Whether it is unread.
    pub unread: Lww<bool>,
    /// Whether it is archived.
    pub archived: Lww<bool>,
    /// Its first words.
    pub snippet: Option<Snippet>,
    /// When it happened, as its source says. Lists are in this order.
    pub timestamp: Timestamp,
    /// When this database first saw it (again, after a removal).
    pub arrived_at: Timestamp,
    /// Who takes part, in the order given; at most 50.
    pub participants: Vec<Person>,
    /// The user's version at which it was changed last.
    pub version: u64,
}

impl Item {
    /// Its place in lists.
    pub fn page_key(&self) -> PageKey {
        PageKey {
            at: self.timestamp,
            id: self.id.0,
        }
    }

    /// Whether it counts as unread: archived items do not.
    pub fn counts_as_unread(&self) -> bool {
        self.unread.value && !self.archived.value
    }
}

/// An item with its newest messages, at one version of its user. Immutable: it is shared, and rendered once.
#[derive(Debug, Serialize, Deserialize)]
pub struct ItemDetail {
    /// The item.
    pub item: Item,
    /// The newest messages, newest first: at most 50.
    pub messages: Vec<Message>,
    /// Where the older ones begin; `None` when there are none.
    pub next: Option<PageKey>,
    /// When it was read from Postgres.
    pub as_of: Timestamp,
    /// The bytes that the API answers with, made on first use.
    #[serde(skip)]
    pub rendered: OnceLock<Arc<[u8]>>,
}

#[cfg(test)]
impl Item {
    /// An unread e-mail of middling priority, at this moment in milliseconds, which arrived then too.
    pub(super) fn example(at: i64) -> Self {
        use crate::clock::Hlc;
        Self {
            id: ItemId(uuid::Uuid::from_u128(1)),
            user_id: UserId(uuid::Uuid::from_u128(2)),
            title: ItemTitle::parse("title").unwrap(),
            source: Source::parse("email").unwrap(),
            priority: ItemPriority::Medium,
            unread: Lww::new(true, Hlc::ZERO),
            archived: Lww::new(false, Hlc::ZERO),
            snippet: None,
            timestamp: Timestamp::from_millis(at),
            arrived_at: Timestamp::from_millis(at),
            participants: Vec::new(),
            version: 1,
        }
    }
}
