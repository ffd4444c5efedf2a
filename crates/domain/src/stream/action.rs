//! What a user does to items: an operation, merged field by field.

use super::item::Item;
use crate::clock::{Hlc, Timestamp};
use crate::id::{ItemId, UserId};
use crate::sync::entity::{Entity, EntityKind, EntityState};
use crate::sync::merge::Effect;
use crate::sync::operation::{Change, Operation};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Marks as read.
    Read,
    /// Marks as unread.
    Unread,
    /// Puts away.
    Archive,
    /// Takes back.
    Unarchive,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 4] = [Self::Read, Self::Unread, Self::Archive, Self::Unarchive];

    /// The name in the API and in Postgres.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Unread => "unread",
            Self::Archive => "archive",
            Self::Unarchive => "unarchive",
        }
    }

    /// The action of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == name)
    }

    /// True for the actions on `unread`, false for those on `archived`.
    pub fn is_about_reading(self) -> bool {
        matches!(self, Self::Read | Self::Unread)
    }

    /// The value that the action gives to its flag.
    pub fn value(self) -> bool {
        matches!(self, Self::Unread | Self::Archive)
    }
}

/// What became of one item in an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemOutcome {
    /// Its flag is as wanted (it may have been so before), or will be when the operation is committed.
    Applied,
    /// It is newer than `asOf`.
    Skipped,
    /// The user has no such item.
    NotFound,
}

impl ItemOutcome {
    /// The name in the API and in Postgres.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Skipped => "skipped",
            Self::NotFound => "not_found",
        }
    }

    /// The outcome of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Applied, Self::Skipped, Self::NotFound]
            .into_iter()
            .find(|outcome| outcome.as_str() == name)
    }
}

/// An action on items of one user: what an operation carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamAction {
    /// What is done.
    pub action: Action,
    /// To which items, each once; at most [`StreamAction::MAX_ITEMS`].
    pub ids: Vec<ItemId>,
    /// Items whose timestamp or arrival is later are left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
    /// What was known of the items, in the order of `ids`, when the operation was buffered; empty for a direct write.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub judged: Vec<ItemOutcome>,
}

impl StreamAction {
    /// The most ids a client may name.
    pub const MAX_IDS: usize = 200;
    /// The most items that one operation may carry, when a filter has found them.
    pub const MAX_ITEMS: usize = 2_000;

    /// Whether it leaves `item` alone because it is newer.
    pub fn skips(&self, item: &Item) -> bool {
        self.as_of
            .is_some_and(|as_of| item.timestamp > as_of || item.arrived_at > as_of)
    }

    /// Folds the action, stamped `stamp`, into one item. True when a flag took its value. The one definition of what an
    /// action does to an item it names; the drain's SQL does the same.
    pub fn fold(&self, stamp: Hlc, item: &mut Item) -> bool {
        if self.skips(item) {
            return false;
        }
        let flag = if self.action.is_about_reading() {
            &mut item.unread
        } else {
            &mut item.archived
        };
        flag.set(self.action.value(), stamp)
    }
}

/// The answer to an action. To the write path it is an entity that the operation creates, with the operation's id: nothing
/// else ever changes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionReceipt {
    /// The operation's id.
    pub id: Uuid,
    /// Whose items.
    pub user_id: UserId,
    /// The operation's stamp.
    pub stamp: Hlc,
    /// What was done; `None` when nothing was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// Each item with what became of it, in the order of the request.
    pub results: Vec<(ItemId, ItemOutcome)>,
    /// The user's version after it; `None` while it is buffered.
    pub version: Option<u64>,
}

impl ActionReceipt {
    /// What to fold, with [`Self::stamp`], over items as they were before it; `None` when no item was touched.
    pub fn effect(&self) -> Option<StreamAction> {
        let applied = self
            .results
            .iter()
            .filter(|result| result.1 == ItemOutcome::Applied);
        let ids: Vec<ItemId> = applied.map(|result| result.0).collect();
        let action = self.action.filter(|_| !ids.is_empty())?;
        Some(StreamAction {
            action,
            ids,
            as_of: None,
            judged: Vec::new(),
        })
    }
}

impl Entity for ActionReceipt {
    const KIND: EntityKind = EntityKind::StreamAction;

    fn id(&self) -> Uuid {
        self.id
    }

    fn owner(&self) -> UserId {
        self.user_id
    }

    fn version(&self) -> u64 {
        1
    }

    fn is_deleted(&self) -> bool {
        false
    }

    fn newest_stamp(&self) -> Hlc {
        self.stamp
    }

    fn updated_at(&self) -> Timestamp {
        self.stamp.timestamp()
    }

    fn apply(current: &mut Option<Self>, operation: &Operation) -> Effect {
        let Change::StreamAction(action) = &operation.change else {
            return Effect::Missing;
        };
        if current.is_some() {
            return Effect::Superseded;
        }
        let judged = action.judged.iter().copied();
        let outcomes = judged.chain(std::iter::repeat(ItemOutcome::Applied));
        *current = Some(Self {
            id: operation.id.0,
            user_id: operation.user_id,
            stamp: operation.accepted_at,
            action: Some(action.action),
            results: action.ids.iter().copied().zip(outcomes).collect(),
            version: None,
        });
        Effect::Applied
    }

    fn into_state(self) -> EntityState {
        EntityState::StreamAction(self)
    }

    fn from_state(state: EntityState) -> Option<Self> {
        match state {
            EntityState::StreamAction(receipt) => Some(receipt),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::NodeId;
    use proptest::prelude::*;

    fn action(kind: usize, as_of: Option<i64>) -> StreamAction {
        StreamAction {
            action: Action::ALL[kind],
            ids: vec![Item::example(0).id],
            as_of: as_of.map(Timestamp::from_millis),
            judged: Vec::new(),
        }
    }

    fn stamp(wall_ms: u64) -> Hlc {
        Hlc {
            wall_ms,
            counter: 0,
            node: NodeId(1),
        }
    }

    fn folded(actions: &[(Hlc, StreamAction)]) -> Item {
        let mut item = Item::example(5);
        for (stamp, action) in actions {
            action.fold(*stamp, &mut item);
        }
        item
    }

    fn actions() -> impl Strategy<Value = Vec<(Hlc, StreamAction)>> {
        let one = (0usize..4, prop::option::of(0i64..10)).prop_map(|(kind, as_of)| action(kind, as_of));
        prop::collection::vec(one, 1..8).prop_map(|all| (1..).map(stamp).zip(all).collect())
    }

    proptest! {
        #[test]
        fn the_order_in_which_actions_arrive_does_not_matter(
            (given, shuffled) in actions().prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
        ) {
            prop_assert_eq!(folded(&given), folded(&shuffled));
        }

        #[test]
        fn actions_that_arrive_again_change_nothing(
            given in actions(), again in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut doubled = given.clone();
            doubled.extend(again.iter().map(|index| index.get(&given).clone()));
            prop_assert_eq!(folded(&given), folded(&doubled));
        }

        #[test]
        fn it_does_not_matter_which_actions_were_folded_before(given in actions(), at in any::<prop::sample::Index>()) {
            // (a b) c = a (b c), where what was folded before is an item of its own.
            let (first, rest) = given.split_at(at.index(given.len()));
            let mut item = folded(first);
            for (stamp, action) in rest {
                action.fold(*stamp, &mut item);
            }
            prop_assert_eq!(item, folded(&given));
        }
    }

    #[test]
    fn each_action_sets_its_own_flag_only() {
        for (kind, is_unread, is_archived) in [
            (0, false, false),
            (1, true, false),
            (2, true, true),
            (3, true, false),
        ] {
            let item = folded(&[(stamp(1), action(kind, None))]);
            assert_eq!((item.unread.value, item.archived.value), (is_unread, is_archived));
        }
    }

    #[test]
    fn an_item_that_is_or_arrived_later_than_as_of_is_left_alone() {
        let mut late = Item::example(5);
        late.arrived_at = Timestamp::from_millis(6);
        assert!(action(0, Some(5)).skips(&late));
        assert!(!action(0, Some(6)).skips(&late));
        let mut future = Item::example(6);
        future.arrived_at = Timestamp::from_millis(5);
        assert!(action(0, Some(5)).skips(&future));
        assert!(!action(0, Some(5)).fold(stamp(1), &mut future));
        assert!(future.unread.value);
        assert!(!action(0, None).skips(&future));
    }

    #[test]
    fn a_receipt_tells_what_was_judged_in_the_order_of_the_request() {
        let ids: Vec<_> = (1..=3).map(|n| ItemId(Uuid::from_u128(n))).collect();
        let judged = vec![ItemOutcome::NotFound, ItemOutcome::Applied, ItemOutcome::Skipped];
        let operation = Operation::new(
            crate::id::OperationId(Uuid::from_u128(9)),
            UserId(Uuid::from_u128(2)),
            Change::StreamAction(StreamAction {
                ids: ids.clone(),
                judged: judged.clone(),
                ..action(0, None)
            }),
            stamp(3),
        );
        let mut receipt = None;
        assert_eq!(ActionReceipt::apply(&mut receipt, &operation), Effect::Applied);
        assert_eq!(ActionReceipt::apply(&mut receipt, &operation), Effect::Superseded);
        let receipt = receipt.unwrap();
        assert_eq!(receipt.results, ids.into_iter().zip(judged).collect::<Vec<_>>());
        assert_eq!((receipt.id, receipt.version), (operation.id.0, None));
    }
}
