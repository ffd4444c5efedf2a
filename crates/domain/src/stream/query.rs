//! What is asked of a stream.

use super::item::{Item, ItemPriority, Source};
use crate::clock::Timestamp;
use crate::id::ItemId;
use crate::page::{PageKey, PageLimit};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

/// Which part of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// What is not archived.
    #[default]
    All,
    /// What is unread and not archived.
    Unread,
    /// What is archived.
    Archived,
}

impl View {
    /// Every view.
    pub const ALL: [Self; 3] = [Self::All, Self::Unread, Self::Archived];

    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Unread => "unread",
            Self::Archived => "archived",
        }
    }

    /// The view of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|view| view.as_str() == name)
    }
}

/// Which items. Sets that are empty let everything through.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct StreamFilter {
    /// Which part.
    pub view: View,
    /// Only of these sources; at most 20.
    pub sources: BTreeSet<Source>,
    /// Only of these priorities.
    pub priorities: BTreeSet<ItemPriority>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
}

impl StreamFilter {
    /// Whether `item` passes.
    pub fn shows(&self, item: &Item) -> bool {
        let in_view = match self.view {
            View::All => !item.archived.value,
            View::Unread => item.counts_as_unread(),
            View::Archived => item.archived.value,
        };
        in_view
            && (self.sources.is_empty() || self.sources.contains(&item.source))
            && (self.priorities.is_empty() || self.priorities.contains(&item.priority))
            && self.since.is_none_or(|since| item.timestamp >= since)
            && self.until.is_none_or(|until| item.timestamp < until)
    }
}

/// A page of a stream, as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StreamQuery {
    /// Which items.
    pub filter: StreamFilter,
    /// After this position.
    pub after: Option<PageKey>,
    /// How many.
    pub limit: PageLimit,
}

/// A page of a stream at one version of its user. Immutable: it is shared, and rendered once.
#[derive(Debug)]
pub struct StreamPage {
    /// The user's version.
    pub version: u64,
    /// How many items of the user are unread and not archived.
    pub unread_count: u64,
    /// Every item that had arrived by then is accounted for: an action with this `asOf` leaves alone what was not there.
    pub as_of: Timestamp,
    /// The items, newest first.
    pub items: Vec<Arc<Item>>,
    /// Where the next page starts.
    pub next: Option<PageKey>,
    /// The bytes that the API answers with, made on first use.
    pub rendered: OnceLock<Arc<[u8]>>,
}

/// What has changed since a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Items that are new or changed (archived ones too), each once.
    pub changed: Vec<ItemId>,
    /// Items that are gone.
    pub removed: Vec<ItemId>,
    /// Everything up to this version is in: the next `since`.
    pub version: u64,
    /// Whether there is more after it.
    pub has_more: bool,
}

/// The items that a filter finds, for an action on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The newest of them.
    pub ids: Vec<ItemId>,
    /// Whether there are more than could be taken at once.
    pub has_more: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item(is_unread: bool, is_archived: bool) -> Item {
        let mut item = Item::example(10);
        item.unread.value = is_unread;
        item.archived.value = is_archived;
        item
    }

    fn view(view: View) -> StreamFilter {
        StreamFilter {
            view,
            ..StreamFilter::default()
        }
    }

    #[test]
    fn each_view_shows_its_part() {
        for (is_unread, is_archived, views) in [
            (true, false, &[View::All, View::Unread][..]),
            (false, false, &[View::All]),
            (true, true, &[View::Archived]),
            (false, true, &[View::Archived]),
        ] {
            let item = item(is_unread, is_archived);
            let shown: Vec<_> = View::ALL
                .into_iter()
                .filter(|each| view(*each).shows(&item))
                .collect();
            assert_eq!(shown, views, "unread {is_unread}, archived {is_archived}");
        }
    }

    #[test]
    fn since_is_inclusive_and_until_is_exclusive() {
        let shows = |since: i64, until: i64| {
            StreamFilter {
                since: Some(Timestamp::from_millis(since)),
                until: Some(Timestamp::from_millis(until)),
                ..StreamFilter::default()
            }
            .shows(&item(true, false))
        };
        assert!(shows(10, 11));
        assert!(!shows(10, 10));
        assert!(!shows(11, 12));
    }

    #[test]
    fn empty_sets_let_everything_through_and_others_only_what_they_hold() {
        let of = |sources: &[&str], priorities: &[ItemPriority]| {
            StreamFilter {
                sources: sources.iter().map(|name| Source::parse(name).unwrap()).collect(),
                priorities: priorities.iter().copied().collect(),
                ..StreamFilter::default()
            }
            .shows(&item(true, false))
        };
        assert!(of(&[], &[]));
        assert!(of(&["chat", "email"], &[ItemPriority::Medium]));
        assert!(!of(&["chat"], &[]));
        assert!(!of(&["email"], &[ItemPriority::High, ItemPriority::Low]));
    }

    proptest! {
        #[test]
        fn an_item_is_in_all_or_in_archived_and_unread_is_a_part_of_all(unread in any::<bool>(), archived in any::<bool>()) {
            let item = item(unread, archived);
            prop_assert_ne!(view(View::All).shows(&item), view(View::Archived).shows(&item));
            prop_assert!(!view(View::Unread).shows(&item) || view(View::All).shows(&item));
            prop_assert_eq!(view(View::Unread).shows(&item), item.counts_as_unread());
        }
    }
}
