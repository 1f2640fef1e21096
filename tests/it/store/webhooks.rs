//! Webhooks: who delivers, and what a sender of the past may record.

use std::time::Duration;

use lockstep::model::event::Cursor;
use lockstep::model::webhook::{Streak, Webhook};
use lockstep::store::{Delivery, Recorded, StoreError};

use crate::support::redis::RedisServer;

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

fn webhook(name: &str) -> Webhook {
    Webhook {
        name: name.parse().expect("a name"),
        url: "https://example.org/".parse().expect("a URL"),
        deployment_id: None,
        types: vec![],
        recipient: None,
    }
}

fn up_to(after: &str) -> Delivery<'static> {
    let after: Cursor = after.parse().expect("a cursor");
    Delivery { after, streak: Streak::default(), error: None, arrived: true, dead: &[] }
}

#[tokio::test]
async fn one_dispatcher_delivers_until_it_gives_no_sign_of_life() {
    let redis = RedisServer::start().await;
    let (one, two) = (redis.store("one").await, redis.store("two").await);
    let hook = webhook("hook");
    assert_eq!(one.set_webhook(&hook, b"sealed", false, "ada", None).await.expect("set"), Recorded::New);
    one.heartbeat(WEEK).await.expect("alive");
    let versions = one.deliverer().await.expect("an answer").expect("it is the first to ask");
    let version = &versions[&hook.name];
    assert!(two.deliverer().await.expect("an answer").is_none());
    one.delivered(&hook.name, version, &up_to("5-1")).await.expect("recorded");
    // It gives no sign of life any more: the other takes over, where it was.
    one.goodbye().await.expect("gone");
    let taken = two.deliverer().await.expect("an answer").expect("it is its turn");
    assert_eq!(taken, versions);
    assert_eq!(two.webhook(&hook.name).await.expect("read").expect("there").after.to_string(), "5-1");
    // It wakes up and does no harm.
    one.heartbeat(WEEK).await.expect("alive");
    two.heartbeat(WEEK).await.expect("alive");
    let stale = one.delivered(&hook.name, version, &up_to("6-0")).await;
    assert!(matches!(stale, Err(StoreError::Stale(_))), "{stale:?}");
    assert!(one.deliverer().await.expect("an answer").is_none());
    two.delivered(&hook.name, version, &up_to("6-0")).await.expect("recorded");
}

#[tokio::test]
async fn a_delivery_under_way_records_nothing_about_what_was_changed() {
    let redis = RedisServer::start().await;
    let store = redis.store("one").await;
    let hook = webhook("hook");
    store.set_webhook(&hook, b"first", false, "ada", None).await.expect("set");
    let version = store.deliverer().await.expect("an answer").expect("nobody else does")[&hook.name].clone();
    let dead =
        [("3-0".parse().expect("a cursor"), "why".to_owned()), ("4-0".parse().expect("a cursor"), "why".to_owned())];
    let streak = Streak { refusals: 2, away: 3, away_since_ms: 2, failures: 7, since_ms: 1, next_ms: 9 };
    let delivery = Delivery { streak, error: Some("it was away"), arrived: false, dead: &dead, ..up_to("4-0") };
    store.delivered(&hook.name, &version, &delivery).await.expect("recorded");
    let stored = store.webhook(&hook.name).await.expect("read").expect("there");
    assert_eq!((stored.streak, stored.error.as_deref(), stored.dead), (streak, Some("it was away"), 2));
    // Replayed: failures are forgotten. What is not kept any more cannot be sent, and stays a dead letter.
    assert!(store.replay(&hook.name, "3-0".parse().expect("a cursor")).await.expect("replayed"));
    let stored = store.webhook(&hook.name).await.expect("read").expect("there");
    assert_eq!((stored.streak, stored.error, stored.dead), (Streak::default(), None, 2));
    assert_eq!(stored.after.to_string(), "3-0");
    let stale = store.delivered(&hook.name, &version, &up_to("9-0")).await;
    assert!(matches!(stale, Err(StoreError::Stale(_))), "{stale:?}");
    // Changed: it goes on where it was, with its secret, unless another one is given.
    for (replace, sealed) in [(false, "first"), (true, "second")] {
        assert_eq!(store.set_webhook(&hook, b"second", replace, "bob", None).await.expect("set"), Recorded::Changed);
        let stored = store.webhook(&hook.name).await.expect("read").expect("there");
        assert_eq!((stored.sealed.as_slice(), stored.after.to_string().as_str()), (sealed.as_bytes(), "3-0"));
    }
    assert!(store.remove_webhook(&hook.name).await.expect("removed"));
    assert!(!store.remove_webhook(&hook.name).await.expect("an answer"));
    assert!(store.webhook(&hook.name).await.expect("read").is_none());
    assert!(store.dead_letters(&hook.name).await.expect("read").is_empty());
    for n in 0..100 {
        let name = format!("hook-{n}");
        assert_eq!(store.set_webhook(&webhook(&name), b"s", false, "ada", None).await.expect("set"), Recorded::New);
    }
    assert_eq!(store.set_webhook(&hook, b"s", false, "ada", None).await.expect("set"), Recorded::Many(100));
    assert_eq!(store.webhooks().await.expect("read").len(), 100);
}
