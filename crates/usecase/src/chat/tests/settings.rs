//! What users want to be told of, and where.

use super::*;
use crate::chat::{
    AddSubscription, ChatError, GetPreferences, NewSubscription, RemoveSubscription, SetPreferences,
};
use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use gravity_domain::chat::notification::MockPushEndpoints;
use gravity_domain::chat::ports::MockNotificationStore;
use gravity_domain::chat::{EndpointRefused, NotificationPreferences};
use gravity_domain::sync::ReadError;

fn add(world: &World, store: MockNotificationStore) -> AddSubscription {
    let mut endpoints = MockPushEndpoints::new();
    endpoints.expect_check().returning(|endpoint| {
        if endpoint.starts_with("https://") {
            Ok(())
        } else {
            Err(EndpointRefused("must be https"))
        }
    });
    AddSubscription::new(
        Arc::new(store),
        Arc::new(world.breaker()),
        Arc::new(endpoints),
        Arc::new(MockClock::at(5)),
    )
}

fn point() -> Vec<u8> {
    let mut point = vec![7; 65];
    point[0] = 4;
    point
}

fn field(result: Result<crate::chat::Subscribed, ChatError>) -> String {
    match result {
        Err(ChatError::Invalid(error)) => error.field.into_owned(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_subscription_is_kept_with_its_keys_padded_or_not() {
    let mut store = MockNotificationStore::new();
    store.expect_subscribe().times(2).returning(|_| Ok(true));
    let add = add(&World::new(true), store);
    let (bare, padded) = (URL_SAFE_NO_PAD.encode([1; 16]), URL_SAFE.encode([1; 16]));
    for auth in [&bare, &padded] {
        let new = NewSubscription {
            endpoint: "https://push.example/1",
            p256dh: &URL_SAFE_NO_PAD.encode(point()),
            auth,
        };
        let added = add.run(ME, new).await.unwrap();
        let subscription = added.subscription;
        assert_eq!(
            (subscription.keys.p256dh, subscription.keys.auth),
            (point(), vec![1; 16])
        );
        assert_eq!((subscription.user_id, subscription.created_at), (ME, at(5)));
        assert_eq!(
            (subscription.endpoint.as_str(), added.is_new),
            ("https://push.example/1", true)
        );
    }
}

#[tokio::test]
async fn a_subscription_that_could_not_be_told_is_refused_by_field() {
    let add = add(&World::new(true), MockNotificationStore::new());
    let (good, auth) = (URL_SAFE_NO_PAD.encode(point()), URL_SAFE_NO_PAD.encode([1; 16]));
    let new = NewSubscription {
        endpoint: "https://push.example/1",
        p256dh: &good,
        auth: &auth,
    };
    let long = format!("https://push.example/{}", "a".repeat(2_048));
    for endpoint in ["http://push.example", long.as_str()] {
        let refused = add.run(ME, NewSubscription { endpoint, ..new }).await;
        assert_eq!(field(refused), "endpoint");
    }
    let compressed = URL_SAFE_NO_PAD.encode([2; 65]);
    for p256dh in ["", "!", auth.as_str(), compressed.as_str()] {
        let refused = add.run(ME, NewSubscription { p256dh, ..new }).await;
        assert_eq!(field(refused), "keys.p256dh");
    }
    let refused = add.run(ME, NewSubscription { auth: &good, ..new }).await;
    assert_eq!(field(refused), "keys.auth");
}

#[tokio::test]
async fn what_is_not_there_cannot_be_removed() {
    let mut store = MockNotificationStore::new();
    store
        .expect_unsubscribe()
        .returning(|_, endpoint| Ok(endpoint == "there"));
    let remove = RemoveSubscription::new(Arc::new(store), Arc::new(World::new(true).breaker()));
    remove.run(ME, "there").await.unwrap();
    let missing = remove.run(ME, "elsewhere").await;
    assert!(matches!(missing, Err(ReadError::NotFound)));
}

#[tokio::test]
async fn settings_need_postgres() {
    let wanted = NotificationPreferences {
        webhook: false,
        ..NotificationPreferences::default()
    };
    for is_up in [true, false] {
        let mut store = MockNotificationStore::new();
        if is_up {
            store.expect_preferences().times(1).returning(move |_| Ok(wanted));
            store.expect_set_preferences().times(1).returning(|_, _| Ok(()));
        }
        let (store, breaker) = (Arc::new(store), Arc::new(World::new(is_up).breaker()));
        let set = SetPreferences::new(store.clone(), breaker.clone())
            .run(ME, wanted)
            .await;
        let get = GetPreferences::new(store, breaker).run(ME).await;
        assert_eq!((set.is_ok(), get.ok()), (is_up, is_up.then_some(wanted)));
    }
}
