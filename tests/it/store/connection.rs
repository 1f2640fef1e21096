//! The connection breaks, stalls, comes back; replies are lost; Redis is killed. And news, which live on a connection.

use std::time::Duration;

use lockstep::model::job::{Intent, Outcome, WhenBusy};
use lockstep::model::output::{Position, lay_out};
use lockstep::store::{Memory, News, Store, StoreError, Submitted};

use super::{everything, inventory, new_job, queue, record, run, start, stored_app, wait_in_line};
use tokio::time::Instant;

use crate::support::eventually;
use crate::support::proxy::{Mode, Proxy};
use crate::support::redis::{RedisServer, WEEK, instance};

fn assert_not_reached<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::NotReached(_))), "{result:?}");
}

async fn reached(store: &Store) {
    eventually("reached", async || store.ping().await.ok()).await;
}

#[tokio::test]
async fn a_call_that_is_not_polled_holds_up_no_other() {
    let mut server = RedisServer::start().await;
    let store = server.store("d1").await;
    server.kill();
    assert_not_reached(store.ping().await);
    server.restart().await;
    let first = store.ping();
    let mut first = std::pin::pin!(first);
    assert!(futures::poll!(&mut first).is_pending());
    tokio::time::timeout(Duration::from_secs(10), store.ping()).await.expect("an answer").expect("Redis answers");
    first.await.expect("Redis answers");
}

#[tokio::test]
async fn killed_redis_comes_back_with_everything_that_was_acknowledged() {
    let mut server = RedisServer::start().await;
    let store = server.store("d1").await;
    store.set_apps(&[stored_app("a", "i")], false).await.expect("an answer").expect("taken");
    let over = run(&store, "b", "j").await;
    store.finish(&over, Outcome::Succeeded, None).await.expect("finished");
    let held = run(&store, "a", "i").await;
    wait_in_line(&store, "a", "i", WhenBusy::Fifo).await;
    store.freeze(&inventory("z"), "x", "ada", None).await.expect("frozen");
    store.audit("ada", "freeze", "z", "x").await.expect("written");
    let mut at = Position::default();
    for n in 0..50 {
        let line = format!("line {n}\n");
        let write = lay_out(at, 256, &line);
        store.append(&held, at, &write).await.expect("appended");
        at = write.after;
        if n == 30 {
            server.restart().await;
            reached(&store).await;
        }
    }
    let before = everything(&mut server.connect().await).await;
    server.restart().await;
    reached(&store).await;
    assert_eq!(everything(&mut server.connect().await).await, before);
    assert_eq!(store.memory().await.expect("an answer"), Memory::Known);
    assert_eq!(record(&store, held.job()).await.output, at);
    store.exited(&held, 0, None).await.expect("the scripts are loaded anew");
    store.finish(&held, Outcome::Succeeded, None).await.expect("finished").expect("the next");
}

#[tokio::test]
async fn acknowledged_writes_survive_a_kill_at_any_moment() {
    let mut server = RedisServer::start().await;
    let store = server.store("d1").await;
    let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            let mut n = 0;
            loop {
                n += 1;
                let job = new_job("a", &format!("i{n}"), WhenBusy::Reject);
                match store.submit(&job).await {
                    Ok(Submitted::Started(held)) => said.send(held).expect("heard"),
                    Ok(other) => panic!("{other:?}"),
                    Err(_) => return,
                }
            }
        }
    });
    let mut acknowledged = vec![heard.recv().await.expect("one")];
    while acknowledged.len() < 100 {
        acknowledged.push(heard.recv().await.expect("more"));
    }
    server.kill();
    writer.await.expect("no panic");
    while let Ok(held) = heard.try_recv() {
        acknowledged.push(held);
    }
    server.restart().await;
    reached(&store).await;
    assert_eq!(store.memory().await.expect("an answer"), Memory::Known);
    for held in acknowledged {
        assert_eq!(record(&store, held.job()).await.fence, Some(held.fence()));
    }
}

#[tokio::test]
async fn redis_away_is_told_at_once_and_its_return_is_noticed() {
    let mut server = RedisServer::start().await;
    let store = server.store("d1").await;
    server.kill();
    let began = Instant::now();
    for _ in 0..10 {
        assert_not_reached(store.submit(&new_job("a", "i", WhenBusy::Queue)).await);
        assert_not_reached(store.live().await);
        assert_not_reached(store.ping().await);
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    server.restart().await;
    start(&store, "a", "i").await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_not_waited_for_for_ever() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let held = run(&store, "a", "i").await;
    server.pause();
    let began = Instant::now();
    let (at, write) = (Position::default(), lay_out(Position::default(), 100, "x"));
    let (appended, noted, read) =
        tokio::join!(store.append(&held, at, &write), store.heartbeat(WEEK), store.record(held.job()));
    assert_not_reached(appended);
    assert_not_reached(noted);
    assert_not_reached(read);
    // A new connection is not made either.
    assert_not_reached(store.record(held.job()).await);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    server.resume();
    reached(&store).await;
    // What was sent may have had its effect; doing it again is safe.
    store.append(&held, at, &write).await.expect("appended");
    assert_eq!(store.readable(held.job()).await.expect("an answer"), 1);
}

#[tokio::test]
async fn every_step_may_be_repeated_when_its_reply_was_lost() {
    let server = RedisServer::start().await;
    let proxy = Proxy::before(server.port()).await;
    let url = format!("redis://:{}@127.0.0.1:{}", server.password(), proxy.port());
    let direct = server.store("d1").await;
    let store = Store::connect(&url, &instance(), "d1", WEEK).await.expect("a usable URL");
    assert_eq!(store.memory().await.expect("an answer"), Memory::Known);

    /// Does a step whose reply is lost, then again.
    macro_rules! twice {
        ($call:expr) => {{
            // On connections that stand already: else nothing would be sent.
            store.ping().await.expect("an answer");
            store.output(lockstep::model::ids::JobId::new(1, 1), 0, 1).await.expect("an answer");
            proxy.set(Mode::LoseReplies);
            assert_not_reached($call.await);
            proxy.set(Mode::Pass);
            $call.await.expect("done")
        }};
    }
    let job = new_job("a", "i", WhenBusy::Queue);
    let Submitted::Started(held) = twice!(store.submit(&job)) else { panic!("not started") };
    let waiting = new_job("b", "i", WhenBusy::Queue);
    assert!(matches!(twice!(store.submit(&waiting)), Submitted::Queued { position: 1 }));
    twice!(store.confirm(&held, "engine", "c", "d"));
    twice!(store.unconfirm(&held, "c"));
    twice!(store.recognize(&held, "engine", "c"));
    twice!(store.started(&held));
    let (at, write) = (Position::default(), lay_out(Position::default(), 8, "0123456789"));
    twice!(store.append(&held, at, &write));
    twice!(store.intend(job.id, Intent::Cancel, None));
    twice!(store.exited(&held, 143, None));
    twice!(store.announce(&held, 4, "…"));
    twice!(store.move_ring(&held, 7, 2, 2));
    let next = twice!(store.finish(&held, Outcome::Canceled, None)).expect("the next");
    assert_eq!((next.job(), next.lease()), (waiting.id, 1));
    twice!(store.set_apps(&[stored_app("a", "i")], false)).expect("taken");
    twice!(store.freeze(&inventory("z"), "x", "ada", None));
    twice!(store.heartbeat(WEEK));

    let (text, ended) = direct.output(job.id, 0, 100).await.expect("an answer").expect("a job");
    assert_eq!((String::from_utf8(text).expect("text").as_str(), ended), ("0123…67", true));
    let ended = record(&direct, job.id).await;
    assert_eq!((ended.exit_code, ended.intent), (Some(143), Some(Intent::Cancel)));
    assert!(queue(&direct, "i").await.is_empty());
}

#[tokio::test]
async fn what_cannot_work_is_told_without_the_password() {
    let server = RedisServer::start().await;
    let bad = Store::connect("http://user:hush-hush@x", &instance(), "d1", WEEK).await.map(drop);
    assert!(matches!(&bad, Err(StoreError::NotReached(cause)) if !cause.contains("hush")), "{bad:?}");
    let url = format!("redis://:hush-hush@127.0.0.1:{}", server.port());
    let wrong = Store::connect(&url, &instance(), "d1", WEEK).await.expect("a usable URL").ping().await;
    assert!(matches!(&wrong, Err(StoreError::NotReached(cause)) if !cause.contains("hush")), "{wrong:?}");
}

#[tokio::test]
async fn redis_without_memory_is_an_operators_trouble_and_nothing_is_half_done() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let held = run(&store, "a", "i").await;
    let mut redis = server.connect().await;
    let before = everything(&mut redis).await;
    let _: () = redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1").query_async(&mut redis).await.expect("set");
    assert_not_reached(store.submit(&new_job("a", "j", WhenBusy::Queue)).await);
    let at = Position::default();
    assert_not_reached(store.append(&held, at, &lay_out(at, 100, "x")).await);
    let _: () = redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0").query_async(&mut redis).await.expect("set");
    assert_eq!(everything(&mut redis).await, before);
    store.append(&held, at, &lay_out(at, 100, "x")).await.expect("appended");
}

async fn woken(news: &mut News) -> (bool, bool) {
    let any = async {
        tokio::select! {
            changed = news.state.changed() => changed.expect("open"),
            changed = news.output.changed() => changed.expect("open"),
        }
    };
    tokio::time::timeout(Duration::from_secs(10), any).await.expect("news");
    (news.state.has_changed().expect("open"), news.output.has_changed().expect("open"))
}

#[tokio::test]
async fn news_wake_those_who_watch_whichever_dispatcher_wrote() {
    let server = RedisServer::start().await;
    let (store, other) = (server.store("d1").await, server.store("d2").await);
    let held = start(&store, "a", "i").await;
    let (mut own, mut theirs) = (store.news(held.job()), other.news(held.job()));
    let mut unrelated = other.news(start(&store, "a", "j").await.job());
    // The wake-up of a connection that has just been made must not be taken for one of what follows.
    let probe = start(&store, "a", "probe").await;
    for store in [&store, &other] {
        let probing = store.news(probe.job());
        eventually("listening", async || {
            other.intend(probe.job(), Intent::Cancel, None).await.expect("an answer");
            store.progress(probe.job(), &serde_json::Map::new()).await.expect("an answer");
            probing.state.has_changed().expect("open").then_some(())
        })
        .await;
    }
    for news in [&mut own, &mut theirs, &mut unrelated] {
        news.state.mark_unchanged();
        news.output.mark_unchanged();
    }
    store.confirm(&held, "engine", "c", "d").await.expect("confirmed");
    store.started(&held).await.expect("started");
    for news in [&mut own, &mut theirs] {
        woken(news).await;
        assert!(!news.output.has_changed().expect("open"), "nothing was written");
    }
    let at = Position::default();
    store.append(&held, at, &lay_out(at, 8, "0123456789")).await.expect("appended");
    for news in [&mut own, &mut theirs] {
        tokio::time::timeout(Duration::from_secs(10), news.output.changed()).await.expect("news").expect("open");
        assert!(!news.state.has_changed().expect("open"), "the state is as it was");
    }
    store.finish(&held, Outcome::Failed, None).await.expect("finished");
    for news in [&mut own, &mut theirs] {
        tokio::time::timeout(Duration::from_secs(10), news.state.changed()).await.expect("news").expect("open");
    }
    assert!(!unrelated.state.has_changed().expect("open"));
}

#[tokio::test]
async fn a_lost_connection_for_news_wakes_everybody_once_it_is_back() {
    let mut server = RedisServer::start().await;
    let store = server.store("d1").await;
    let held = run(&store, "a", "i").await;
    let news = store.news(held.job());
    eventually("listening", async || {
        store.progress(held.job(), &serde_json::Map::new()).await.expect("an answer");
        news.state.has_changed().expect("open").then_some(())
    })
    .await;
    let mut news = store.news(held.job());
    server.restart().await;
    for receiver in [&mut news.state, &mut news.output] {
        tokio::time::timeout(Duration::from_secs(10), receiver.changed()).await.expect("woken").expect("open");
    }
    let _still_there: &RedisServer = &server;
}

/// Trust in a certificate comes from the environment, which a test cannot set for itself: it runs itself again.
#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the environment is how it tells itself which of the two runs it is")]
async fn redis_is_reached_over_tls_and_only_with_a_certificate_that_is_trusted() {
    const NAME: &str = "store::connection::redis_is_reached_over_tls_and_only_with_a_certificate_that_is_trusted";
    const URL: &str = "LOCKSTEP_TEST_REDISS";
    if let Ok(url) = std::env::var(URL) {
        let store = Store::connect(&url, &instance(), "d1", WEEK).await.expect("a usable URL");
        store.ping().await.expect("reached over TLS");
        assert_eq!(store.memory().await.expect("an answer"), Memory::Strange { found: None });
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (certificate, private) = (dir.path().join("certificate.pem"), dir.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).expect("written");
    std::fs::write(&private, made.signing_key.serialize_pem()).expect("written");
    let port = crate::support::redis::free_port();
    let (certificate_path, key_path) = (certificate.to_str().expect("text"), private.to_str().expect("text"));
    let server = RedisServer::start_with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-auth-clients",
        "no",
        "--tls-cert-file",
        certificate_path,
        "--tls-key-file",
        key_path,
        "--tls-ca-cert-file",
        certificate_path,
    ])
    .await;
    let url = format!("rediss://:{}@localhost:{port}", server.password());
    let untrusted = Store::connect(&url, &instance(), "d1", WEEK).await.expect("a usable URL").ping().await;
    assert_not_reached(untrusted);
    let again = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", NAME, "--nocapture"])
        .env(URL, &url)
        .env("SSL_CERT_FILE", &certificate)
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&again.stdout).into_owned() + &String::from_utf8_lossy(&again.stderr);
    assert!(again.status.success() && said.contains("1 passed"), "{said}");
}
