//! Output by offset, long-polls, and server-sent events.

use axum::body::BodyDataStream;
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::timeout;

use super::*;
use crate::support::PATIENCE;

impl Service {
    async fn output(&self, job: &str, query: &str) -> Answer {
        self.call(Ask::get(&format!("/api/v1/jobs/{job}/output?{query}")).app("one")).await
    }
}

fn said(answer: &Answer) -> (&str, &str, &str, &str) {
    let header = |name| answer.header(name);
    (answer.text(), header("lockstep-next-offset"), header("lockstep-state"), header("lockstep-output-complete"))
}

#[tokio::test]
async fn output_is_read_from_any_offset_while_it_grows_and_after() {
    let service = Service::start().await;
    let job = service.running("one").await;
    let empty = service.output(&job, "").await;
    assert_eq!(said(&empty), ("", "0", "running", "false"));
    assert_eq!(empty.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(empty.header("x-content-type-options"), "nosniff");
    service.engine.print("i-one", "first\nsecond é\n");
    service.printed(&job, 16).await;
    assert_eq!(said(&service.output(&job, "offset=6").await), ("second é\n", "16", "running", "false"));
    assert_eq!(said(&service.output(&job, "offset=16").await), ("", "16", "running", "false"));
    let beyond = service.output(&job, "offset=17").await;
    assert_eq!((beyond.problem(), beyond.header("content-range")), (is(416, "offset-beyond-end"), "bytes */16"));
    assert_eq!(service.output(&job, "offset=9007199254740991").await.problem(), is(416, "offset-beyond-end"));
    for query in ["offset=-1", "offset=x", "wait=61", "wait=-1", "colour=red", "offset=9007199254740992"] {
        assert_eq!(service.output(&job, query).await.problem(), is(422, "invalid"), "{query}");
    }
    service.end("one", &job, 0).await;
    assert_eq!(said(&service.output(&job, "offset=6&wait=60").await), ("second é\n", "16", "finished", "true"));
    assert_eq!(said(&service.output(&job, "offset=16&wait=60").await), ("", "16", "finished", "true"));
    service.stop().await;
}

#[tokio::test]
async fn a_large_output_comes_in_pieces_that_end_with_whole_characters() {
    let service = Service::start().await;
    let job = service.running("one").await;
    // 1 MiB is no multiple of 3, so a cut by bytes alone would fall into a character.
    let text = "€".repeat(700_000);
    service.engine.print("i-one", &text);
    service.printed(&job, text.len() as u64).await;
    service.end("one", &job, 0).await;
    let (mut read, mut offset) = (String::new(), 0);
    let mut pieces = 0;
    loop {
        let answer = service.output(&job, &format!("offset={offset}")).await;
        assert!(answer.body.len() <= 1 << 20);
        read.push_str(answer.text());
        pieces += 1;
        offset += answer.body.len();
        assert_eq!(answer.header("lockstep-next-offset"), offset.to_string());
        if answer.header("lockstep-output-complete") == "true" {
            break;
        }
    }
    assert_eq!((pieces, read == text), (3, true));
    service.stop().await;
}

#[tokio::test]
async fn a_long_poll_ends_with_news_and_not_before() {
    let service = Service::start().await;
    let job = service.running("one").await;
    let mut waiting = Box::pin(service.output(&job, "wait=60"));
    assert!(timeout(Duration::from_millis(300), &mut waiting).await.is_err(), "there is nothing to say yet");
    service.engine.print("i-one", "news\n");
    assert_eq!(said(&timeout(PATIENCE, waiting).await.expect("an answer")), ("news\n", "5", "running", "false"));

    let mut waiting = Box::pin(service.output(&job, "offset=5&wait=60"));
    assert!((&mut waiting).now_or_never().is_none());
    service.engine.end("i-one", 0);
    assert_eq!(said(&timeout(PATIENCE, waiting).await.expect("an answer")), ("", "5", "finished", "true"));

    let job = service.running("one").await;
    assert_eq!(said(&service.output(&job, "wait=1").await), ("", "0", "running", "false"));
    // The end of the service ends what waits, and says what is known.
    let mut waiting = Box::pin(service.output(&job, "wait=60"));
    assert!((&mut waiting).now_or_never().is_none());
    service.stop.cancel();
    assert_eq!(timeout(PATIENCE, waiting).await.expect("an answer").status.as_u16(), 200);
    service.stop().await;
}

/// A follower: reads event by event.
pub(super) struct Events {
    body: BodyDataStream,
    buffer: String,
    /// The last id that was told, with an event or without one.
    pub(super) last: Option<String>,
}

#[derive(Debug, PartialEq)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) id: Option<String>,
    pub(super) data: Value,
}

impl Events {
    async fn open(service: &Service, job: &str, last: Option<u64>) -> Self {
        let ask = Ask::get(&format!("/api/v1/jobs/{job}/events")).app("one");
        let ask = match last {
            Some(last) => ask.header("last-event-id", &last.to_string()),
            None => ask,
        };
        Self::ask(service, ask).await
    }

    pub(super) async fn ask(service: &Service, ask: Ask) -> Self {
        let answer = service.send(ask).await;
        assert_eq!(answer.status().as_u16(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { body: answer.into_body().into_data_stream(), buffer: String::new(), last: None }
    }

    /// The next event; none at the end of the stream.
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.buffer = rest;
                let field =
                    |name: &str| event.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
                self.last = field("id:").or(self.last.take());
                let Some(name) = field("event:") else { continue };
                let data = serde_json::from_str(&field("data:").expect("data")).expect("JSON");
                return Some(Event { name, id: field("id:"), data });
            }
            let chunk = timeout(PATIENCE, self.body.next()).await.expect("the stream goes on or ends")?;
            self.buffer.push_str(std::str::from_utf8(&chunk.expect("a chunk")).expect("text"));
        }
    }

    async fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

fn output(offset: u64, text: &str) -> Event {
    let data = json!({"offset": offset, "text": text});
    Event { name: "output".into(), id: Some((offset + text.len() as u64).to_string()), data }
}

#[tokio::test]
async fn a_follower_sees_states_output_and_the_end() {
    let service = Service::start().await;
    let holder = service.running("one").await;
    let job = service.submit("one").await;
    let mut events = Events::open(&service, &job, None).await;
    let state = |event: Option<Event>| {
        let event = event.expect("an event");
        assert_eq!((event.name.as_str(), event.id.as_deref()), ("state", None), "{event:?}");
        event.data["state"].as_str().expect("a state").to_owned()
    };
    assert_eq!(state(events.next().await), "queued");
    service.end("one", &holder, 0).await;
    let mut seen = state(events.next().await);
    while seen != "running" {
        assert_eq!(seen, "starting");
        seen = state(events.next().await);
    }
    service.engine.print("i-one", "a\nb é\u{1b}[0m\n");
    assert_eq!(events.next().await, Some(output(0, "a\nb é\u{1b}[0m\n")));
    let token = service.engine.file("i-one", "/run/lockstep/token");
    let path = format!("/api/v1/jobs/{job}/progress");
    service.call(Ask::post(&path).token(&token).json(&json!({"task": "copy", "tasks_done": 2}))).await;
    let progress = Event { name: "progress".into(), id: None, data: json!({"task": "copy", "tasks_done": 2}) };
    assert_eq!(events.next().await, Some(progress));

    service.engine.print("i-one", "last");
    service.engine.end("i-one", 0);
    assert_eq!(events.next().await, Some(output(11, "last")));
    let rest = events.rest().await;
    let names: Vec<&str> = rest.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names.last(), Some(&"end"));
    assert!(names[..names.len() - 1].iter().all(|name| *name == "state"), "{names:?}");
    assert_eq!(rest.last().expect("an event").data["outcome"], "succeeded");

    // Taken up again at a byte, after the end too.
    let again = Events::open(&service, &job, Some(2)).await.rest().await;
    assert_eq!(
        again.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(),
        ["state", "progress", "output", "end"]
    );
    assert_eq!(again[2], output(2, "b é\u{1b}[0m\nlast"));
    let nothing_left = Events::open(&service, &job, Some(15)).await.rest().await;
    assert_eq!(nothing_left.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(), ["state", "progress", "end"]);
    let bad =
        service.call(Ask::get(&format!("/api/v1/jobs/{job}/events")).app("one").header("last-event-id", "x")).await;
    assert_eq!(bad.problem(), is(422, "invalid"));
    service.stop().await;
}

#[tokio::test]
async fn followers_get_all_of_a_flood_each_once() {
    let service = Service::start().await;
    let job = service.running("one").await;
    let follower = Events::open(&service, &job, None).await;
    // One that does not read costs nothing but its place.
    let _idle = Events::open(&service, &job, None).await;
    let mut text = String::new();
    for n in 0..2_000 {
        let line = format!("line {n} {}\n", "x€".repeat(100));
        service.engine.print("i-one", &line);
        text.push_str(&line);
    }
    service.engine.end("i-one", 0);
    let (mut read, mut offset) = (String::new(), 0);
    for event in follower.rest().await {
        if event.name == "output" {
            assert_eq!(event.data["offset"], offset);
            let piece = event.data["text"].as_str().expect("text");
            assert!(piece.len() <= 64 * 1024);
            read.push_str(piece);
            offset += piece.len() as u64;
            assert_eq!(event.id, Some(offset.to_string()));
        }
    }
    assert!(read == text, "{} of {} bytes", read.len(), text.len());
    service.stop().await;
}

#[tokio::test]
async fn a_follower_outlives_redis_and_leaves_with_the_service() {
    let mut service = Service::start().await;
    let job = service.running("one").await;
    let mut events = Events::open(&service, &job, None).await;
    assert_eq!(events.next().await.expect("an event").name, "state");
    service.redis.restart().await;
    service.engine.print("i-one", "after\n");
    assert_eq!(events.next().await, Some(output(0, "after\n")));
    service.stop.cancel();
    assert_eq!(events.rest().await, []);
    service.stop().await;
}
