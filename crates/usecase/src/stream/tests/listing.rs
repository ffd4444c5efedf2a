//! Pages with pending actions in them equal the pages of a world where the actions had been applied.

use super::super::ListStream;
use super::*;
use gravity_domain::sync::{BufferError, ReadError};
use proptest::prelude::*;

fn list(cache: MockStreamCache, is_up: bool, pending: Vec<StreamAction>) -> ListStream {
    ListStream::new(
        Arc::new(cache),
        Arc::new(breaker(is_up)),
        Arc::new(buffer(pending)),
    )
}

fn numbers(page: &StreamPage) -> Vec<u128> {
    page.items.iter().map(|item| item.id.0.as_u128()).collect()
}

#[tokio::test]
async fn a_page_without_pending_actions_is_the_cached_one_itself() {
    let shared = Arc::new(page_of(&items(3), &query(View::All, 20)));
    let given = Arc::clone(&shared);
    let mut cache = MockStreamCache::new();
    cache
        .expect_page()
        .withf(|_, _, at_least| *at_least == 7)
        .returning(move |_, _, _| Ok(cached(Arc::clone(&given), Freshness::Stale)));
    nothing_done(&mut cache);
    let read = list(cache, false, vec![])
        .run(USER, &query(View::All, 20), 7)
        .await
        .unwrap();
    assert!(Arc::ptr_eq(&read.page, &shared));
    assert_eq!((read.freshness, read.age_seconds), (Freshness::Stale, 9));
}

#[tokio::test]
async fn an_item_that_is_read_while_postgres_is_away_is_seen_as_read_at_once() {
    let rows = items(3);
    let base = Arc::new(page_of(&rows, &query(View::All, 20)));
    let read = list(cache(rows, None), true, vec![action(Action::Read, &[2])])
        .run(USER, &query(View::All, 20), 0)
        .await
        .unwrap();
    assert_eq!(read.freshness, Freshness::Pending);
    assert_eq!(numbers(&read.page), [3, 2, 1]);
    let unread: Vec<_> = read.page.items.iter().map(|item| item.unread.value).collect();
    assert_eq!(unread, [true, false, true]);
    assert_eq!((read.page.unread_count, read.page.version), (2, base.version));
    assert!(base.items[1].unread.value, "what is shared was changed");
}

/// A cache that has the pages of ten items, of which one was known newer since, and an action on others.
fn with_deeds() -> MockStreamCache {
    let mut known = MockStreamCache::new();
    let rows = items(10);
    let stale = rows.clone();
    known.expect_page().returning(move |_, query, _| {
        let is_of_five = query.limit == PageLimit::new(5).unwrap();
        let ends = query.after.is_none_or(|after| after == item(6, 6).page_key());
        if is_of_five && ends {
            Ok(cached(Arc::new(page_of(&stale, query)), Freshness::Stale))
        } else {
            Err(away())
        }
    });
    known_items(&mut known, rows);
    known.expect_acted_since().returning(|_, version| match version {
        0 | 1 => vec![
            (stamp(5), action(Action::Archive, &[9, 2])),
            (stamp(6), action(Action::Read, &[8])),
        ],
        _ => Vec::new(),
    });
    known.expect_newer().returning(|_, items| {
        let mut newer = item(7, 7);
        newer.version = 3;
        newer.unread = Lww::new(false, stamp(2));
        let is_older = items.iter().any(|item| item.id == newer.id && item.version < 3);
        is_older.then(|| Arc::new(newer)).into_iter().collect()
    });
    known
}

#[tokio::test]
async fn a_stale_page_shows_what_was_done_and_what_was_shown_before() {
    let mut query = query(View::All, 5);
    let list = list(with_deeds(), false, vec![]);
    let first = list.run(USER, &query, 0).await.unwrap();
    assert_eq!(numbers(&first.page), [10, 8, 7, 6, 5]);
    let unread: Vec<_> = first.page.items.iter().map(|item| item.unread.value).collect();
    assert_eq!(unread, [true, false, false, true, true]);
    assert_eq!(
        (first.freshness, first.age_seconds, first.is_folded),
        (Freshness::Stale, 9, true)
    );
    assert_eq!((first.page.unread_count, first.page.version), (6, 1));
    // The next begins inside of a page that is known.
    query.after = first.page.next;
    let second = list.run(USER, &query, 0).await.unwrap();
    assert_eq!(numbers(&second.page), [4, 3, 1]);
}

#[tokio::test]
async fn an_archived_item_leaves_its_list_and_the_next_one_moves_up() {
    let pending = vec![action(Action::Archive, &[5, 4])];
    let read = list(cache(items(6), None), true, pending)
        .run(USER, &query(View::All, 3), 0)
        .await
        .unwrap();
    assert_eq!(numbers(&read.page), [6, 3, 2]);
    assert_eq!(read.page.unread_count, 4);
    assert_eq!(read.page.next, Some(item(2, 2).page_key()));
}

#[tokio::test]
async fn an_archived_item_is_put_in_the_archive_where_it_belongs() {
    let mut rows = items(4);
    for row in &mut rows[..2] {
        row.archived.value = true;
    }
    let pending = vec![action(Action::Archive, &[3])];
    let read = list(cache(rows, None), true, pending)
        .run(USER, &query(View::Archived, 2), 0)
        .await
        .unwrap();
    assert_eq!(numbers(&read.page), [3, 2]);
    assert_eq!(read.page.next, Some(item(2, 2).page_key()));
    assert_eq!(read.page.unread_count, 1);
}

#[tokio::test]
async fn a_touched_item_of_which_nothing_is_known_makes_the_answer_unknown() {
    let mut cache = MockStreamCache::new();
    cache
        .expect_page()
        .returning(|_, query, _| Ok(cached(Arc::new(page_of(&items(2), query)), Freshness::Stale)));
    nothing_done(&mut cache);
    cache
        .expect_items()
        .withf(|_, ids, may_ask_store| ids == [id(77)] && !may_ask_store)
        .returning(|_, _, _| Err(away()));
    let read = list(cache, false, vec![action(Action::Read, &[2, 77])])
        .run(USER, &query(View::All, 20), 0)
        .await;
    assert!(matches!(read, Err(ReadError::Unknown)));
}

#[tokio::test]
async fn an_item_that_was_judged_not_to_be_there_is_not_asked_for() {
    let mut cache = MockStreamCache::new();
    cache
        .expect_page()
        .returning(|_, query, _| Ok(cached(Arc::new(page_of(&items(2), query)), Freshness::Stale)));
    nothing_done(&mut cache);
    cache.expect_items().never();
    let mut pending = action(Action::Read, &[2, 77]);
    pending.judged = vec![
        gravity_domain::stream::ItemOutcome::Applied,
        gravity_domain::stream::ItemOutcome::NotFound,
    ];
    let read = list(cache, false, vec![pending])
        .run(USER, &query(View::All, 20), 0)
        .await
        .unwrap();
    assert_eq!(read.page.unread_count, 1);
}

#[tokio::test]
async fn a_page_that_cannot_be_read_on_is_answered_short_but_never_empty() {
    let dark = Some((PageLimit::new(3).unwrap(), 1));
    let short = list(cache(items(6), dark), false, vec![action(Action::Archive, &[5])])
        .run(USER, &query(View::All, 3), 0)
        .await
        .unwrap();
    assert_eq!(numbers(&short.page), [6, 4]);
    assert_eq!(short.page.next, Some(item(4, 4).page_key()));
    assert_eq!(short.age_seconds, 9);
    let empty = list(
        cache(items(6), dark),
        false,
        vec![action(Action::Archive, &[6, 5, 4])],
    )
    .run(USER, &query(View::All, 3), 0)
    .await;
    assert!(matches!(empty, Err(ReadError::Unknown)));
}

#[tokio::test]
async fn a_page_older_than_a_touched_item_is_asked_for_again() {
    let mut cache = MockStreamCache::new();
    cache.expect_acted_since().returning(|_, _| Vec::new());
    let mut drained = item(1, 1);
    drained.archived = Lww::new(true, stamp(1));
    drained.version = 2;
    let after = [drained.clone(), item(2, 2)];
    cache.expect_page().times(2).returning(move |_, query, at_least| {
        let mut page = page_of(&after, query);
        page.version = 2;
        if at_least < 2 {
            page = page_of(&items(2)[1..], query);
            page.unread_count = 2;
        }
        Ok(cached(Arc::new(page), Freshness::Current))
    });
    known_items(&mut cache, vec![drained, item(2, 2)]);
    let read = list(cache, true, vec![action(Action::Archive, &[1])])
        .run(USER, &query(View::All, 20), 0)
        .await
        .unwrap();
    assert_eq!((read.page.version, read.page.unread_count), (2, 1));
}

#[tokio::test]
async fn an_outage_with_nothing_known_is_unknown_and_a_refusal_is_not() {
    for (is_outage, pending) in [
        (true, vec![]),
        (true, vec![action(Action::Read, &[1])]),
        (false, vec![]),
    ] {
        let mut cache = MockStreamCache::new();
        cache.expect_acted_since().returning(|_, _| Vec::new());
        cache.expect_page().returning(move |_, _, _| {
            Err(if is_outage {
                away()
            } else {
                StoreError::Rejected {
                    reason: "x".into(),
                    source: None,
                }
            })
        });
        let read = list(cache, true, pending)
            .run(USER, &query(View::All, 20), 0)
            .await;
        match read {
            Err(ReadError::Unknown) => assert!(is_outage),
            Err(ReadError::Store(_)) => assert!(!is_outage),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_buffer_that_cannot_tell_what_is_pending_is_told() {
    let mut buffer = MockWriteBuffer::new();
    buffer
        .expect_pending_of()
        .returning(|_, _| Err(BufferError::Unavailable("closed".into())));
    let list = ListStream::new(
        Arc::new(cache(items(2), None)),
        Arc::new(breaker(true)),
        Arc::new(buffer),
    );
    let read = list.run(USER, &query(View::All, 20), 0).await;
    assert!(matches!(read, Err(ReadError::Buffer(_))));
    assert_eq!(list.version(USER, 0).await, None);
}

#[tokio::test]
async fn the_version_is_told_for_a_comparison_only_while_nothing_is_pending() {
    let version_of = async |pending| {
        let mut cache = MockStreamCache::new();
        cache.expect_version().returning(|_, _| Some(4));
        list(cache, true, pending).version(USER, 4).await
    };
    assert_eq!(version_of(vec![]).await, Some(4));
    assert_eq!(version_of(vec![action(Action::Read, &[1])]).await, None);
}

fn any_items() -> impl Strategy<Value = Vec<Item>> {
    let one = (0i64..8, any::<bool>(), any::<bool>());
    prop::collection::vec(one, 0..24).prop_map(|all| {
        (1..)
            .zip(all)
            .map(|(n, (millis, is_unread, is_archived))| {
                let mut item = item(n, millis);
                item.unread.value = is_unread;
                item.archived.value = is_archived;
                item
            })
            .collect()
    })
}

fn any_actions() -> impl Strategy<Value = Vec<StreamAction>> {
    let ids = prop::collection::btree_set(1u128..26, 0..12);
    let one = (0usize..4, ids, prop::option::of(0i64..8)).prop_map(|(kind, ids, as_of)| StreamAction {
        as_of: as_of.map(at),
        ..action(Action::ALL[kind], &ids.into_iter().collect::<Vec<_>>())
    });
    prop::collection::vec(one, 0..5)
}

/// Every page from the first to the last, as one list; the count on each page must be that of `expected`.
fn walked(list: &ListStream, mut query: StreamQuery, expected: &[Item]) -> Vec<ItemId> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut ids = Vec::new();
    for _ in 0..100 {
        let read = runtime.block_on(list.run(USER, &query, 0)).unwrap();
        assert!(read.page.items.len() <= query.limit.get());
        assert_eq!(read.page.unread_count, counted(expected));
        ids.extend(read.page.items.iter().map(|item| item.id));
        query.after = read.page.next;
        if query.after.is_none() {
            return ids;
        }
    }
    panic!("the list has no end");
}

proptest! {
    #[test]
    fn paging_with_pending_actions_neither_repeats_nor_leaves_gaps(
        rows in any_items(), pending in any_actions(), part in 0usize..3, limit in 1usize..6, is_up in any::<bool>(),
    ) {
        let query = query(View::ALL[part], limit);
        let expected = applied(rows.clone(), &pending);
        let whole = StreamQuery { limit: PageLimit::new(PageLimit::MAX).unwrap(), ..query.clone() };
        let shown: Vec<_> = page_of(&expected, &whole).items.iter().map(|item| item.id).collect();
        let dark = (!is_up).then_some((query.limit, 100));
        let list = list(cache(rows, dark), is_up, pending);
        prop_assert_eq!(walked(&list, query, &expected), shown);
    }
}
