//! Events of all jobs: by cursor, with long-poll, and as server-sent events.

use futures::FutureExt as _;
use tokio::time::timeout;

use super::follow::Events;
use super::*;
use crate::support::PATIENCE;

const QUEUED: &str = "dev.cdevents.pipelinerun.queued.0.2.0";
const STARTING: &str = "dev.cdeventsx.lockstep-job.starting.0.1.0";
const STARTED: &str = "dev.cdevents.pipelinerun.started.0.2.0";
const CANCELING: &str = "dev.cdeventsx.lockstep-job.canceling.0.1.0";
const FINISHED: &str = "dev.cdevents.pipelinerun.finished.0.2.0";

impl Service {
    async fn happened(&self, query: &str) -> Answer {
        let answer = self.call(Ask::get(&format!("/api/v1/events?{query}")).token(OPERATOR)).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (StatusCode::OK, "application/cloudevents-batch+json")
        );
        answer
    }
}

/// Type, subject and state of each event.
fn told(answer: &Answer) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let events = answer.json();
    let events = events.as_array().expect("an array").iter();
    events.map(|it| (text(&it["type"]), text(&it["subject"]), text(&it["data"]["customData"]["state"]))).collect()
}

fn event(kind: &str, job: &str, state: &str) -> (String, String, String) {
    (kind.to_owned(), job.to_owned(), state.to_owned())
}

#[tokio::test]
async fn every_change_of_state_is_one_event_in_order() {
    let service = Service::start().await;
    let first = service.running("one").await;
    let second = service.submit("one").await;
    let third = service.submit("one").await;
    service.end("one", &first, 3).await;
    service.engine.running("i-one").await;
    service.reaches(&third, "running").await;
    let cancel = service.call(Ask::post(&format!("/api/v1/jobs/{third}/cancel")).app("one")).await;
    assert_eq!(cancel.status, StatusCode::ACCEPTED);
    service.reaches(&third, "finished").await;

    let answer = service.happened("").await;
    let expected = [
        event(QUEUED, &first, "queued"),
        event(STARTING, &first, "starting"),
        event(STARTED, &first, "running"),
        event(QUEUED, &second, "queued"),
        event(QUEUED, &third, "queued"),
        event(FINISHED, &second, "superseded"),
        event(FINISHED, &first, "failed"),
        event(STARTING, &third, "starting"),
        event(STARTED, &third, "running"),
        event(CANCELING, &third, "canceling"),
        event(FINISHED, &third, "canceled"),
    ];
    assert_eq!(told(&answer), expected);
    let events = answer.json();
    let ids: Vec<_> = events.as_array().expect("an array").iter().map(|it| it["id"].as_str().expect("an id")).collect();
    assert_eq!(*ids.last().expect("an event"), answer.header("lockstep-next-cursor"));
    assert_eq!(answer.header("lockstep-events-missed"), "false");
    let failed = &events[6];
    assert_eq!((failed["specversion"].as_str(), failed["source"].as_str()), (Some("1.0"), Some("/lockstep/test")));
    let data = &failed["data"];
    assert_eq!((&data["context"]["id"], &data["context"]["timestamp"]), (&failed["id"], &failed["time"]));
    assert_eq!(data["subject"]["content"]["outcome"], "failure");
    assert_eq!(data["customData"]["exit_code"], 3);
    assert_eq!(events[5]["data"]["customData"]["superseded_by"], third);

    // By cursor, piece by piece, it is the same, and nothing twice.
    let (mut read, mut cursor) = (Vec::new(), "0-0".to_owned());
    loop {
        let answer = service.happened(&format!("after={cursor}&limit=4")).await;
        if told(&answer).is_empty() {
            break;
        }
        read.extend(told(&answer));
        cursor = answer.header("lockstep-next-cursor").to_owned();
    }
    assert_eq!(read, expected);
    assert_eq!(service.happened("after=now").await.header("lockstep-next-cursor"), cursor);
    service.stop().await;
}

#[tokio::test]
async fn an_app_sees_its_own_and_an_operator_all() {
    let service = Service::start().await;
    let (one, two) = (service.running("one").await, service.running("two").await);
    for (ask, own) in [
        (Ask::get("/api/v1/events").app("one"), &one),
        (Ask::get("/api/v1/events?deployment_id=two").token(OPERATOR), &two),
    ] {
        let answer = service.call(ask).await;
        assert_eq!(told(&answer).len(), 3);
        assert!(told(&answer).iter().all(|(_, job, _)| job == own), "{answer:?}");
    }
    assert_eq!(told(&service.happened("").await).len(), 6);
    let other = service.call(Ask::get("/api/v1/events?deployment_id=two").app("one")).await;
    assert!(told(&other).is_empty());
    // The place moves on over what is others', so that it is not looked at again.
    assert_eq!(
        other.header("lockstep-next-cursor"),
        service.happened("after=now").await.header("lockstep-next-cursor")
    );
    assert_eq!(service.call(Ask::get("/api/v1/events")).await.problem(), is(401, "unauthorized"));
    for query in ["after=x", "after=1", "wait=61", "limit=0", "limit=1001", "deployment_id=../x", "since=1-0"] {
        let answer = service.call(Ask::get(&format!("/api/v1/events?{query}")).token(OPERATOR)).await;
        assert_eq!(answer.problem(), is(422, "invalid"), "{query}");
    }
    service.stop().await;
}

#[tokio::test]
async fn a_reader_is_woken_by_the_next_event_and_by_the_stop() {
    let service = Service::start().await;
    let mut waiting = Box::pin(service.happened("after=now&wait=60"));
    assert!(timeout(Duration::from_millis(300), &mut waiting).await.is_err(), "nothing has happened yet");
    let job = service.submit("one").await;
    let answer = timeout(PATIENCE, waiting).await.expect("an answer");
    assert_eq!(told(&answer)[0], event(QUEUED, &job, "queued"));
    service.engine.running("i-one").await;
    service.reaches(&job, "running").await;
    let mut waiting = Box::pin(service.happened("after=now&wait=60"));
    assert!((&mut waiting).now_or_never().is_none());
    service.stop.cancel();
    assert!(told(&timeout(PATIENCE, waiting).await.expect("an answer")).is_empty());
    service.stop().await;
}

#[tokio::test]
async fn a_stream_goes_on_where_it_broke_off() {
    let service = Service::start().await;
    let follow = || Ask::get("/api/v1/events").token(OPERATOR).header("accept", "text/event-stream");
    let job = service.running("one").await;
    let mut events = Events::ask(&service, follow()).await;
    let mut last = None;
    for (kind, state) in [(QUEUED, "queued"), (STARTING, "starting")] {
        let next = events.next().await.expect("an event");
        assert_eq!((next.name.as_str(), next.data["data"]["customData"]["state"].as_str()), (kind, Some(state)));
        assert_eq!(next.id.as_deref(), next.data["id"].as_str());
        last = next.id;
    }
    drop(events);
    let mut events = Events::ask(&service, follow().header("last-event-id", &last.expect("an id"))).await;
    assert_eq!(events.next().await.expect("an event").name, STARTED);
    service.end("one", &job, 0).await;
    assert_eq!(events.next().await.expect("an event").name, FINISHED);
    service.stop.cancel();
    assert_eq!(timeout(PATIENCE, events.next()).await.expect("the stream ends"), None);
    service.stop().await;
}

/// Where to resume is told before anything has happened.
#[tokio::test]
async fn a_stream_that_broke_off_before_its_first_event_misses_nothing() {
    let service = Service::start().await;
    service.submit("one").await;
    let follow = || Ask::get("/api/v1/events?after=now").app("two").header("accept", "text/event-stream");
    let mut events = Events::ask(&service, follow()).await;
    assert!(timeout(Duration::from_millis(300), events.next()).await.is_err(), "nothing has happened yet");
    let last = events.last.take().expect("an id");
    drop(events);
    let job = service.submit("two").await;
    let mut events = Events::ask(&service, follow().header("last-event-id", &last)).await;
    let first = events.next().await.expect("an event");
    assert_eq!((first.name.as_str(), &first.data["subject"]), (QUEUED, &json!(job)));
    service.stop.cancel();
    service.stop().await;
}

#[tokio::test]
async fn who_comes_back_too_late_is_told_so() {
    let service = Service::start().await;
    service.running("one").await;
    let seen = service.happened("limit=1").await.header("lockstep-next-cursor").to_owned();
    let mut redis = service.redis.connect().await;
    redis::cmd("XTRIM")
        .arg("lockstep:test:events")
        .arg("MAXLEN")
        .arg(1)
        .query_async::<()>(&mut redis)
        .await
        .expect("trimmed");
    let answer = service.happened(&format!("after={seen}")).await;
    assert_eq!((told(&answer).len(), answer.header("lockstep-events-missed")), (1, "true"));
    let next = answer.header("lockstep-next-cursor").to_owned();
    assert_eq!(service.happened(&format!("after={next}")).await.header("lockstep-events-missed"), "false");
    // Who has seen the newest has missed nothing, also once that is not kept any more.
    let mut trim = redis::cmd("XTRIM");
    trim.arg("lockstep:test:events").arg("MAXLEN").arg(0);
    trim.query_async::<()>(&mut redis).await.expect("trimmed");
    assert_eq!(service.happened(&format!("after={next}")).await.header("lockstep-events-missed"), "false");
    assert_eq!(service.happened(&format!("after={seen}")).await.header("lockstep-events-missed"), "true");
    let far = format!("{0}-{0}", u64::MAX);
    assert!(told(&service.happened(&format!("after={far}")).await).is_empty());
    // Who begins at the beginning has missed nothing that it knew of.
    assert_eq!(service.happened("").await.header("lockstep-events-missed"), "false");
    service.submit("two").await;
    let follow = Ask::get("/api/v1/events").token(OPERATOR).header("accept", "text/event-stream");
    let mut events = Events::ask(&service, follow.header("last-event-id", &seen)).await;
    for name in ["missed", QUEUED] {
        assert_eq!(events.next().await.expect("an event").name, name);
    }
    drop(events);
    service.stop().await;
}

#[tokio::test]
async fn events_are_forgotten_once_their_time_has_passed() {
    let service = Service::start().await;
    let mut redis = service.redis.connect().await;
    for number in 1..=300 {
        let mut add = redis::cmd("XADD");
        add.arg("lockstep:test:events")
            .arg(format!("1000-{number}"))
            .arg(&["kind", "job", "about", "x", "what", "queued", "data", "{}"]);
        add.query_async::<()>(&mut redis).await.expect("added");
    }
    assert_eq!(told(&service.happened("limit=1000").await).len(), 300);
    service.submit("one").await;
    // Redis forgets in blocks of a hundred.
    assert!(told(&service.happened("limit=1000").await).len() < 103);
    service.stop().await;
}
