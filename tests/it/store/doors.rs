//! Credentials, the list of apps, and the brake on guessing.

use std::net::IpAddr;

use lockstep::model::ids::JobId;
use lockstep::model::job::{Outcome, State};
use lockstep::model::output::{Position, lay_out};
use lockstep::store::{Brief, Memory, StoreError};

use super::{app, key, run, stored_app};
use crate::support::eventually;
use crate::support::redis::RedisServer;

fn brief(app: &str, inventory: &str, state: State, reason: Option<&str>) -> Brief {
    let (deployment_id, inventory) = (app.parse().expect("a name"), inventory.parse().expect("a name"));
    Brief { deployment_id, inventory, state, reason: reason.map(str::to_owned) }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[tokio::test]
async fn the_list_of_apps_is_replaced_whole_or_not_at_all() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let from = address("192.0.2.1");
    assert_eq!(store.apps().await.expect("an answer"), None);
    assert!(!store.note_failure("a", from).await.expect("an answer"), "no list: it is not the secret that is wrong");
    assert_eq!(store.set_apps(&[], false).await.expect("an answer"), Err(0));
    assert_eq!(store.apps().await.expect("an answer"), None);

    let many: Vec<_> = ["d", "b", "c", "a"].map(|name| stored_app(name, "i")).into();
    assert_eq!(store.set_apps(&many, false).await.expect("an answer"), Ok(()));
    let sorted: Vec<_> = ["a", "b", "c", "d"].map(|name| stored_app(name, "i")).into();
    assert_eq!(store.apps().await.expect("an answer"), Some(sorted));
    assert!(store.note_failure("a", from).await.expect("an answer"));
    assert_eq!(store.set_apps(&many[..1], false).await.expect("an answer"), Err(4));
    assert_eq!(store.set_apps(&[], false).await.expect("an answer"), Err(4));
    assert_eq!(store.apps().await.expect("an answer").map(|apps| apps.len()), Some(4));
    assert_eq!(store.set_apps(&many[..2], false).await.expect("an answer"), Ok(()));
    assert_eq!(store.door(&app("c"), from).await.expect("an answer").app, None);
    assert_eq!(store.door(&app("b"), from).await.expect("an answer").app, Some(stored_app("b", "i")));
    assert_eq!(store.set_apps(&[], true).await.expect("an answer"), Ok(()));
    assert_eq!(store.apps().await.expect("an answer"), Some(vec![]));

    let all: Vec<_> = (0..10_000).map(|n| stored_app(&format!("app-{n}"), "i")).collect();
    assert_eq!(store.set_apps(&all, false).await.expect("an answer"), Ok(()));
    assert_eq!(store.apps().await.expect("an answer").map(|apps| apps.len()), Some(10_000));

    let mut redis = server.connect().await;
    let _: () = redis::cmd("HSET").arg(key("apps")).arg("a").arg("{}").query_async(&mut redis).await.expect("set");
    let stranger = server.stranger("d2").await;
    assert_eq!(stranger.memory().await.expect("an answer"), Memory::Known);
    assert!(matches!(stranger.door(&app("a"), from).await, Err(StoreError::Unreadable(_))));
    assert!(matches!(stranger.apps().await, Err(StoreError::Unreadable(_))));
    assert!(stranger.door(&app("app-1"), from).await.expect("an answer").app.is_some());
}

#[tokio::test]
async fn a_new_list_is_in_force_at_once_at_every_dispatcher() {
    let server = RedisServer::start().await;
    let stores = [server.store("d1").await, server.store("d2").await];
    let from = address("192.0.2.1");
    for n in 0..20 {
        let list = [stored_app("a", &format!("i{n}")), stored_app(&format!("b{n}"), "i")];
        stores[n % 2].set_apps(&list, false).await.expect("an answer").expect("taken");
        for store in &stores {
            assert_eq!(store.door(&app("a"), from).await.expect("an answer").app, Some(list[0].clone()));
            let polled =
                store.range(Some((&app(&format!("b{n}")), from)), JobId::new(1, 1), 0, 1024).await.expect("an answer");
            assert_eq!(polled.door.app, Some(list[1].clone()));
            if n > 0 {
                let old = app(&format!("b{}", n - 1));
                assert_eq!(store.door(&old, from).await.expect("an answer").app, None);
            }
        }
    }
    let mut redis = server.connect().await;
    for gone in ["apps", "apps_version"] {
        let _: () = redis::cmd("DEL").arg(key(gone)).query_async(&mut redis).await.expect("deleted");
    }
    assert_eq!(stores[0].door(&app("a"), from).await.expect("an answer").app, None);
    assert_eq!(stores[0].apps().await.expect("an answer"), None);
}

#[tokio::test]
async fn a_poll_reads_credentials_state_and_output() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let from = address("2001:db8::1");
    store.set_apps(&[stored_app("a", "i")], false).await.expect("an answer").expect("taken");
    let held = run(&store, "a", "i").await;
    let polled = store.range(Some((&app("a"), from)), held.job(), 0, 1024).await.expect("an answer");
    assert_eq!(polled.door.app, Some(stored_app("a", "i")));
    assert_eq!((polled.job, polled.bytes), (Some(brief("a", "i", State::Running, None)), Vec::new()));
    let at = Position::default();
    store.append(&held, at, &lay_out(at, 1 << 20, "zwei €\n")).await.expect("appended");
    store.finish(&held, Outcome::Lost, Some("gone, it says")).await.expect("finished");
    let polled = store.range(Some((&app("nobody"), from)), held.job(), 0, 1024).await.expect("an answer");
    assert_eq!((polled.door.app, polled.door.barred), (None, None));
    assert_eq!(polled.job, Some(brief("a", "i", State::Ended(Outcome::Lost), Some("gone, it says"))));
    assert_eq!(polled.bytes, "zwei €\n".as_bytes());
    let polled = store.range(Some((&app("a"), from)), JobId::new(1, 1), 0, 1024).await.expect("an answer");
    assert!(polled.job.is_none() && polled.bytes.is_empty() && polled.door.app.is_some());

    let (view, door) = store.job(held.job(), Some((&app("a"), from))).await.expect("an answer");
    assert!(view.is_some() && door.app.is_some());
    let (view, door) = store.job(JobId::new(1, 1), Some((&app("a"), from))).await.expect("an answer");
    assert!(view.is_none() && door.app.is_some());

    let mut redis = server.connect().await;
    let name = key(&format!("job:{}", held.job()));
    let _: () = redis::cmd("HDEL").arg(&name).arg("state").query_async(&mut redis).await.expect("deleted");
    assert!(matches!(store.job(held.job(), Some((&app("a"), from))).await, Err(StoreError::Unreadable(_))));
    let name = key(&format!("brief:{}", held.job()));
    let _: () = redis::cmd("SET").arg(&name).arg("x").query_async(&mut redis).await.expect("set");
    assert!(matches!(store.range(Some((&app("a"), from)), held.job(), 0, 1024).await, Err(StoreError::Unreadable(_))));
}

#[tokio::test]
async fn twenty_failures_bar_an_address_for_a_minute_at_most() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    store.set_apps(&[stored_app("a", "i")], false).await.expect("an answer").expect("taken");
    let (bad, good) = (address("192.0.2.1"), address("192.0.2.2"));
    for n in 0..20 {
        assert_eq!(store.token(b"nobody", bad).await.expect("an answer").1, None, "after {n}");
        // What is no name is counted all the same.
        store.note_failure(if n % 2 == 0 { "a" } else { "../a" }, bad).await.expect("an answer");
    }
    let left = store.token(b"nobody", bad).await.expect("an answer").1.expect("barred");
    assert!((1..=60).contains(&left), "{left}");
    let polled = store.range(Some((&app("b"), bad)), JobId::new(1, 1), 0, 1024).await.expect("an answer");
    assert!(polled.door.barred.is_some());
    assert!(store.door(&app("b"), bad).await.expect("an answer").barred.is_some());
    assert!(store.job(JobId::new(1, 1), Some((&app("b"), bad))).await.expect("an answer").1.barred.is_some());
    assert_eq!(store.door(&app("a"), good).await.expect("an answer").barred, None);
    assert_eq!(store.token(b"nobody", good).await.expect("an answer").1, None);

    // More failures do not make it longer.
    let mut redis = server.connect().await;
    let name = key("failures:addr:192.0.2.1");
    let _: () = redis::cmd("PEXPIRE").arg(&name).arg(200).query_async(&mut redis).await.expect("set");
    store.note_failure("a", bad).await.expect("an answer");
    assert_eq!(store.token(b"nobody", bad).await.expect("an answer").1, Some(1));
    eventually("let in again", async || {
        store.token(b"nobody", bad).await.expect("an answer").1.is_none().then_some(())
    })
    .await;
    assert_eq!(store.door(&app("a"), bad).await.expect("an answer").barred, None);
}

#[tokio::test]
async fn without_a_list_of_apps_only_tokens_can_be_wrong() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let from = address("192.0.2.1");
    for _ in 0..30 {
        assert!(!store.note_failure("a", from).await.expect("an answer"));
    }
    assert_eq!(store.token(b"nobody", from).await.expect("an answer").1, None);
    for _ in 0..20 {
        assert_eq!(store.token(b"nobody", from).await.expect("an answer").1, None);
        assert!(!store.note_failure("", from).await.expect("an answer"));
    }
    assert!(store.token(b"nobody", from).await.expect("an answer").1.is_some());
}

#[tokio::test]
async fn a_hundred_failures_bar_an_app_from_everywhere() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    store.set_apps(&[stored_app("a", "i")], false).await.expect("an answer").expect("taken");
    for n in 0..100 {
        assert_eq!(store.door(&app("a"), address("192.0.2.200")).await.expect("an answer").barred, None, "after {n}");
        store.note_failure("a", address(&format!("192.0.2.{n}"))).await.expect("an answer");
    }
    let barred = store.door(&app("a"), address("192.0.2.200")).await.expect("an answer").barred;
    assert!(barred.is_some_and(|left| (1..=60).contains(&left)), "{barred:?}");
    assert_eq!(store.door(&app("b"), address("192.0.2.200")).await.expect("an answer").barred, None);
    assert_eq!(store.token(b"nobody", address("192.0.2.200")).await.expect("an answer").1, None);
}
