//! Single items, messages and changes.

use super::super::{ChangesError, GetChanges, GetItem, ListMessages};
use super::*;
use crate::sync::Read;
use gravity_domain::id::MessageId;
use gravity_domain::page::Page;
use gravity_domain::stream::ports::MockStreamStore;
use gravity_domain::stream::{Changes, ContentType, Message, SenderType, Versioned};
use gravity_domain::sync::ReadError;

fn message(n: i64) -> Message {
    Message {
        id: MessageId(Uuid::from_u128(u128::try_from(n).unwrap())),
        sender_id: None,
        sender_name: None,
        sender_type: SenderType::Other,
        content_type: ContentType::Text,
        content: None,
        full_content_html: None,
        timestamp: at(n),
        event_details: None,
        social_details: None,
        attachments: None,
        ai_insights: None,
    }
}

#[tokio::test]
async fn a_pending_action_is_seen_on_the_item_and_not_on_others() {
    let get = |id| async move {
        GetItem::new(
            Arc::new(cache(items(2), None)),
            Arc::new(buffer(vec![action(Action::Archive, &[1])])),
        )
        .run(USER, id, 0)
        .await
    };
    let folded = get(id(1)).await.unwrap();
    assert!(folded.detail.item.archived.value);
    assert_eq!(folded.freshness, Freshness::Pending);
    let other = get(id(2)).await.unwrap();
    assert!(!other.detail.item.archived.value);
    assert_eq!(other.freshness, Freshness::Current);
    assert!(matches!(get(id(3)).await, Err(ReadError::NotFound)));
}

#[tokio::test]
async fn an_item_of_which_nothing_is_known_is_unknown_and_not_missing() {
    let mut cache = MockStreamCache::new();
    cache.expect_detail().returning(|_, _, _| Err(away()));
    let read = GetItem::new(Arc::new(cache), Arc::new(buffer(vec![])))
        .run(USER, id(1), 0)
        .await;
    assert!(matches!(read, Err(ReadError::Unknown)));
}

/// Messages of an item of which the cache knows 5, with or without more, in the dark.
async fn in_the_dark(has_more: bool, after: Option<i64>, limit: usize) -> Result<Page<Message>, ReadError> {
    let mut cache = MockStreamCache::new();
    cache.expect_detail().returning(move |_, _, _| {
        let detail = ItemDetail {
            item: item(1, 1),
            messages: (6..=10).rev().map(message).collect(),
            next: has_more.then(|| message(6).page_key()),
            as_of: at(1_000),
            rendered: OnceLock::new(),
        };
        Ok(cached(Some(Arc::new(detail)), Freshness::Stale))
    });
    let mut store = MockStreamStore::new();
    store.expect_messages().never();
    let after = after.map(|n| message(n).page_key());
    ListMessages::new(Arc::new(store), Arc::new(cache), Arc::new(breaker(false)))
        .run(USER, id(1), after, PageLimit::new(limit).unwrap())
        .await
        .map(|read| {
            assert_eq!((read.freshness, read.age_seconds), (Freshness::Stale, 9));
            read.page
        })
}

fn millis(page: &Page<Message>) -> Vec<i64> {
    page.items
        .iter()
        .map(|message| message.timestamp.millis())
        .collect()
}

#[tokio::test]
async fn known_messages_stand_in_for_postgres_as_far_as_they_reach() {
    let first = in_the_dark(true, None, 3).await.unwrap();
    assert_eq!(millis(&first), [10, 9, 8]);
    assert_eq!(first.next, Some(message(8).page_key()));
    let exact = in_the_dark(true, None, 5).await.unwrap();
    assert_eq!(exact.next, Some(message(6).page_key()));
    let second = in_the_dark(true, Some(8), 3).await;
    assert!(matches!(second, Err(ReadError::Unknown)));
    let last = in_the_dark(false, Some(8), 3).await.unwrap();
    assert_eq!(millis(&last), [7, 6]);
    assert_eq!(last.next, None);
}

#[tokio::test]
async fn messages_come_from_postgres_while_it_is_there() {
    for found in [true, false] {
        let mut store = MockStreamStore::new();
        store.expect_messages().times(1).returning(move |_, _, _, _| {
            Ok(found.then(|| Page {
                items: vec![message(1)],
                next: None,
            }))
        });
        let list = ListMessages::new(
            Arc::new(store),
            Arc::new(MockStreamCache::new()),
            Arc::new(breaker(true)),
        );
        match list.run(USER, id(1), None, PageLimit::default()).await {
            Ok(read) => assert_eq!((millis(&read.page), found), (vec![1], true)),
            Err(error) => assert!(matches!(error, ReadError::NotFound) && !found),
        }
    }
}

async fn changes(
    answer: Option<Versioned<Option<Changes>>>,
    known: Option<u64>,
    since: u64,
    pending: Vec<StreamAction>,
) -> Result<Changes, ChangesError> {
    let freshness = if pending.is_empty() {
        Freshness::Current
    } else {
        Freshness::Pending
    };
    let told = changes_read(answer, known, since, pending, true).await?;
    assert_eq!(told.freshness, freshness);
    Ok(told.value)
}

async fn changes_read(
    answer: Option<Versioned<Option<Changes>>>,
    known: Option<u64>,
    since: u64,
    pending: Vec<StreamAction>,
    is_up: bool,
) -> Result<Read<Changes>, ChangesError> {
    let mut store = MockStreamStore::new();
    store
        .expect_changes()
        .returning(move |_, _| answer.clone().ok_or_else(away));
    let mut cache = MockStreamCache::new();
    cache.expect_version().return_const(known);
    GetChanges::new(
        Arc::new(store),
        Arc::new(cache),
        Arc::new(breaker(is_up)),
        Arc::new(buffer(pending)),
    )
    .run(USER, since)
    .await
}

fn at_seven(value: Option<Changes>) -> Option<Versioned<Option<Changes>>> {
    Some(Versioned { value, version: 7 })
}

#[tokio::test]
async fn items_with_pending_actions_have_changed() {
    let stored = Changes {
        changed: vec![id(1)],
        removed: vec![id(2)],
        version: 7,
        has_more: false,
    };
    let pending = vec![action(Action::Read, &[1, 2, 3])];
    let told = changes(at_seven(Some(stored.clone())), None, 5, pending.clone())
        .await
        .unwrap();
    assert_eq!(told.changed, [id(1), id(3)]);
    assert_eq!((told.removed, told.version), (stored.removed, 7));
}

#[tokio::test]
async fn nothing_has_changed_since_the_version_that_is_known_and_postgres_is_not_asked() {
    let told = changes(None, Some(7), 7, vec![]).await.unwrap();
    assert_eq!((told.changed, told.version, told.has_more), (vec![], 7, false));
    let told = changes(None, Some(7), 7, vec![action(Action::Read, &[3])])
        .await
        .unwrap();
    assert_eq!(told.changed, [id(3)]);
}

#[tokio::test]
async fn that_nothing_has_changed_is_stale_while_postgres_is_away() {
    let told = changes_read(None, Some(7), 7, vec![], false).await.unwrap();
    assert_eq!(told.freshness, Freshness::Stale);
    let pending = vec![action(Action::Read, &[3])];
    let told = changes_read(None, Some(7), 7, pending, false).await.unwrap();
    assert_eq!(told.freshness, Freshness::Pending);
}

#[tokio::test]
async fn a_stale_item_shows_what_was_done_and_what_was_shown_before() {
    let mut newer = item(1, 1);
    newer.version = 4;
    newer.archived = Lww::new(true, stamp(3));
    let mut cache = MockStreamCache::new();
    cache.expect_detail().returning(|_, id, _| {
        let detail = ItemDetail {
            item: item(id.0.as_u128(), 1),
            messages: Vec::new(),
            next: None,
            as_of: at(1_000),
            rendered: OnceLock::new(),
        };
        Ok(cached(Some(Arc::new(detail)), Freshness::Stale))
    });
    cache.expect_newer().returning(move |_, items| {
        let newer = Arc::new(newer.clone());
        Some(newer)
            .into_iter()
            .filter(|newer| newer.id == items[0].id)
            .collect()
    });
    cache
        .expect_acted_since()
        .returning(|_, _| vec![(stamp(5), action(Action::Read, &[1, 2]))]);
    let get = GetItem::new(Arc::new(cache), Arc::new(buffer(vec![])));
    for (number, is_archived, is_unread, is_folded) in [
        (1, true, false, true),
        (2, false, false, true),
        (3, false, true, false),
    ] {
        let read = get.run(USER, id(number), 0).await.unwrap();
        let item = &read.detail.item;
        assert_eq!((item.archived.value, item.unread.value), (is_archived, is_unread));
        assert_eq!(
            (read.freshness, read.age_seconds, read.is_folded),
            (Freshness::Stale, 9, is_folded)
        );
    }
}

#[tokio::test]
async fn changes_that_cannot_be_told_are_told_apart() {
    let future = changes(at_seven(None), None, 8, vec![]).await;
    assert!(matches!(future, Err(ChangesError::FutureVersion { current: 7 })));
    let long_ago = changes(at_seven(None), None, 1, vec![]).await;
    assert!(matches!(long_ago, Err(ChangesError::CannotCalculate)));
    let dark = changes(None, None, 1, vec![]).await;
    assert!(matches!(dark, Err(ChangesError::Read(ReadError::Unknown))));
}
