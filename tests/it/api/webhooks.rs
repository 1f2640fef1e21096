//! Webhooks: a receiver on this machine, which takes events, refuses them, is slow, or is not there.

use std::sync::Mutex;

use axum::extract::State;
use axum::http::Uri;
use axum::response::IntoResponse as _;
use base64::engine::general_purpose::STANDARD;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::support::PATIENCE;

/// What a receiver answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Takes,
    Answers(u16),
    Silent,
}

/// A message as it arrived.
#[derive(Debug, Clone)]
struct Message {
    path: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Message {
    fn id(&self) -> &str {
        self.headers["webhook-id"].to_str().expect("text")
    }

    fn event(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    fn state(&self) -> String {
        self.event()["data"]["customData"]["state"].as_str().expect("a state").to_owned()
    }
}

struct World {
    mood: Mood,
    messages: Vec<Message>,
}

/// A receiver.
struct Receiver {
    address: SocketAddr,
    world: Arc<Mutex<World>>,
    task: JoinHandle<()>,
}

impl Receiver {
    async fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::on(listener, Arc::new(Mutex::new(World { mood, messages: vec![] })))
    }

    fn on(listener: TcpListener, world: Arc<Mutex<World>>) -> Self {
        let address = listener.local_addr().expect("an address");
        let router = Router::new().fallback(take).with_state(world.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { address, world, task }
    }

    fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    fn mood(&self, mood: Mood) {
        self.world.lock().expect("nobody died").mood = mood;
    }

    fn messages(&self) -> Vec<Message> {
        self.world.lock().expect("nobody died").messages.clone()
    }

    /// Waits for so many messages; no more than these have come.
    async fn got(&self, count: usize) -> Vec<Message> {
        eventually(&format!("{count} messages"), async || (self.messages().len() >= count).then_some(())).await;
        let messages = self.messages();
        assert_eq!(messages.len(), count, "{messages:?}");
        messages
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn take(
    State(world): State<Arc<Mutex<World>>>,
    uri: Uri,
    headers: HeaderMap,
    body: axum::body::Bytes,
) -> axum::response::Response {
    let mood = {
        let mut world = world.lock().expect("nobody died");
        world.messages.push(Message { path: uri.path().to_owned(), headers, body: body.to_vec() });
        world.mood
    };
    match mood {
        Mood::Takes => StatusCode::NO_CONTENT.into_response(),
        Mood::Answers(status @ 300..=399) => {
            (StatusCode::from_u16(status).expect("a status"), [("location", "/elsewhere")]).into_response()
        }
        Mood::Answers(status) => StatusCode::from_u16(status).expect("a status").into_response(),
        Mood::Silent => std::future::pending().await,
    }
}

impl Service {
    /// One that may call this machine, and knows the apps `one` and `two`.
    async fn that_calls() -> Self {
        let egress = Egress::new(&["127.0.0.0/8".parse().expect("a network")]);
        let oidc = Oidc::new(Egress::new(&[]), Pace::default());
        let service = Self::calling(FinalStatus::Finished, oidc, egress).await;
        service.feed(&json!([app("one"), app("two")])).await;
        service
    }

    async fn hook(&self, name: &str, body: &Value) -> Answer {
        self.call(Ask::new("PUT", &format!("/api/v1/webhooks/{name}")).token(OPERATOR).json(body)).await
    }

    /// A webhook, and its secret.
    async fn hooked(&self, name: &str, body: &Value) -> String {
        let answer = self.hook(name, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.json()["secret"].as_str().expect("a secret").to_owned()
    }

    /// How a webhook is.
    async fn hook_is(&self, name: &str) -> Value {
        let list = self.call(Ask::get("/api/v1/webhooks").token(OPERATOR)).await.json();
        let hooks = list["webhooks"].as_array().expect("a list").iter();
        hooks.clone().find(|hook| hook["name"] == name).expect("it is there").clone()
    }

    async fn dead(&self, name: &str) -> Vec<Value> {
        let path = format!("/api/v1/webhooks/{name}/dead-letters");
        let list = self.call(Ask::get(&path).token(OPERATOR)).await.json();
        list["dead_letters"].as_array().expect("a list").clone()
    }

    async fn replay(&self, name: &str, after: &str) -> Answer {
        let ask = Ask::post(&format!("/api/v1/webhooks/{name}/replay")).token(OPERATOR);
        self.call(ask.json(&json!({"after": after, "reason": "the receiver was restored"}))).await
    }
}

/// Checks a message as Standard Webhooks say, with nothing of the service's own.
fn verify(message: &Message, secret: &str) {
    let key = STANDARD.decode(secret.strip_prefix("whsec_").expect("a key")).expect("base64");
    let header = |name: &str| message.headers[name].to_str().expect("text");
    let signed = [format!("{}.{}.", message.id(), header("webhook-timestamp")).as_bytes(), &message.body].concat();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &key);
    let tag = STANDARD.decode(header("webhook-signature").strip_prefix("v1,").expect("a version")).expect("base64");
    aws_lc_rs::hmac::verify(&key, &signed, &tag).expect("the signature is right");
    let at: u64 = header("webhook-timestamp").parse().expect("a number");
    assert!(lockstep::clock::wall_ms() / 1000 - at < 60);
    assert_eq!(header("content-type"), "application/cloudevents+json");
}

#[tokio::test]
async fn events_arrive_in_order_signed_and_as_they_are_read() {
    let service = Service::that_calls().await;
    let receiver = Receiver::start(Mood::Takes).await;
    let secret = service.hooked("all", &json!({"url": receiver.url()})).await;
    let job = service.running("one").await;
    service.end("one", &job, 0).await;
    let messages = receiver.got(4).await;
    let states: Vec<_> = messages.iter().map(Message::state).collect();
    assert_eq!(states, ["queued", "starting", "running", "succeeded"]);
    let read = service.call(Ask::get("/api/v1/events").token(OPERATOR)).await.json();
    for (message, event) in messages.iter().zip(read.as_array().expect("events")) {
        verify(message, &secret);
        assert_eq!((&message.event(), message.id()), (event, event["id"].as_str().expect("an id")));
        assert_eq!(message.path, "/hook");
    }
    eventually("it is recorded", async || {
        let hook = service.hook_is("all").await;
        (hook["after"] == messages[3].id() && hook["delivered_at"].is_string() && hook["failures"] == 0).then_some(())
    })
    .await;
    // The secret is shown once and kept encrypted; another one is used from then on.
    assert!(!service.dump().await.contains(&secret) && !service.dump().await.contains(&secret[6..]));
    assert!(service.hook("all", &json!({"url": receiver.url()})).await.json()["secret"].is_null());
    let own = format!("whsec_{}", STANDARD.encode([7; 32]));
    let set = service.hook("all", &json!({"url": receiver.url(), "secret": own})).await;
    assert!(set.json()["secret"].is_null() && !set.text().contains(&own));
    service.submit("two").await;
    eventually("a message", async || (receiver.messages().len() > 4).then_some(())).await;
    verify(&receiver.messages()[4], &own);
    service.stop().await;
}

#[tokio::test]
async fn a_webhook_gets_what_it_asks_for() {
    let service = Service::that_calls().await;
    let (of_two, ends) = (Receiver::start(Mood::Takes).await, Receiver::start(Mood::Takes).await);
    service.hooked("of-two", &json!({"url": of_two.url(), "deployment_id": "two"})).await;
    service.hooked("ends", &json!({"url": ends.url(), "types": ["dev.cdevents.pipelinerun.finished"]})).await;
    let (one, two) = (service.running("one").await, service.running("two").await);
    service.end("one", &one, 1).await;
    service.end("two", &two, 0).await;
    let messages = of_two.got(4).await;
    assert!(messages.iter().all(|message| message.event()["subject"] == two));
    let ended: Vec<_> = ends.got(2).await.iter().map(Message::state).collect();
    assert_eq!(ended, ["failed", "succeeded"]);
    // One that is removed gets nothing more; one that is made anew begins with what happens next.
    let remove = Ask::new("DELETE", "/api/v1/webhooks/of-two").token(OPERATOR);
    assert_eq!(service.call(remove).await.status, StatusCode::NO_CONTENT);
    let two = service.running("two").await;
    service.end("two", &two, 0).await;
    ends.got(3).await;
    service.hooked("of-two", &json!({"url": of_two.url(), "deployment_id": "two"})).await;
    service.submit("two").await;
    eventually("a message", async || (of_two.messages().len() > 4).then_some(())).await;
    assert_eq!(of_two.messages()[4].state(), "queued");
    service.stop().await;
}

#[tokio::test]
async fn a_slow_or_dead_receiver_holds_up_nobody_else() {
    let service = Service::that_calls().await;
    let (silent, good) = (Receiver::start(Mood::Silent).await, Receiver::start(Mood::Takes).await);
    service.hooked("silent", &json!({"url": silent.url()})).await;
    service.hooked("nobody", &json!({"url": "http://127.0.0.1:1/"})).await;
    service.hooked("good", &json!({"url": good.url()})).await;
    let job = service.running("one").await;
    timeout(PATIENCE, service.end("one", &job, 0)).await.expect("the job is not held up");
    good.got(4).await;
    assert_eq!(silent.messages().len(), 1, "the next is sent when this one has been answered");
    let nobody = eventually("a failure", async || {
        let hook = service.hook_is("nobody").await;
        hook["error"].is_string().then_some(hook)
    })
    .await;
    assert!(nobody["error"].as_str().expect("a text").starts_with("not reached"), "{nobody}");
    assert!(nobody["failing_since"].is_string() && nobody["next_try"].is_string());
    service.stop().await;
}

#[tokio::test]
async fn what_is_not_taken_is_tried_again_and_then_a_dead_letter_until_it_is_replayed() {
    let service = Service::that_calls().await;
    let receiver = Receiver::start(Mood::Answers(500)).await;
    service.hooked("hook", &json!({"url": receiver.url(), "types": ["dev.cdevents.pipelinerun."]})).await;
    let job = service.running("one").await;
    // Refused: three times by this pace, then the next one.
    let letters = eventually("two dead letters", async || {
        let letters = service.dead("hook").await;
        (letters.len() == 2).then_some(letters)
    })
    .await;
    let messages = receiver.got(6).await;
    assert_eq!(letters[0]["event"], messages[0].id());
    assert_eq!(letters[1]["event"], messages[3].id());
    assert!(letters[0]["error"].as_str().expect("a text").contains("500"), "{letters:?}");
    // Tried again under the same id, which is how a receiver tells that it has it already.
    assert!(messages[..3].iter().all(|message| message.id() == messages[0].id() && message.body == messages[0].body));
    // It comes back: what happens next arrives, and what was given up does when it is asked for.
    receiver.mood(Mood::Takes);
    service.end("one", &job, 0).await;
    receiver.got(7).await;
    assert_eq!(service.replay("nobody", "0-0").await.problem(), is(404, "unknown-webhook"));
    assert_eq!(service.replay("hook", "x").await.problem(), is(422, "invalid"));
    assert_eq!(service.replay("hook", messages[0].id()).await.status, StatusCode::ACCEPTED);
    let again = receiver.got(9).await;
    let ids: Vec<_> = again[7..].iter().map(Message::id).collect();
    assert_eq!(ids, [messages[3].id(), again[6].id()]);
    let letters = service.dead("hook").await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0]["event"], messages[0].id());
    service.stop().await;
}

#[tokio::test]
async fn a_receiver_that_comes_back_gets_all_of_it_and_one_that_stays_away_does_not_hold_events_for_ever() {
    let service = Service::that_calls().await;
    let receiver = Receiver::start(Mood::Answers(503)).await;
    service.hooked("hook", &json!({"url": receiver.url()})).await;
    let job = service.running("one").await;
    eventually("it is tried again", async || (receiver.messages().len() > 2).then_some(())).await;
    assert!(service.dead("hook").await.is_empty());
    receiver.mood(Mood::Takes);
    let before = receiver.messages().len();
    service.end("one", &job, 0).await;
    eventually("all have arrived", async || {
        let states: Vec<_> = receiver.messages()[before..].iter().map(Message::state).collect();
        // One try may have been under way.
        states.ends_with(&["queued", "starting", "running", "succeeded"].map(str::to_owned)).then_some(())
    })
    .await;
    assert!(service.dead("hook").await.is_empty());
    // Away for longer than is waited for.
    receiver.mood(Mood::Answers(503));
    let job = service.running("two").await;
    service.end("two", &job, 0).await;
    let letters = eventually("dead letters", async || {
        let letters = service.dead("hook").await;
        (letters.len() == 4).then_some(letters)
    })
    .await;
    assert!(
        letters[3]["error"].as_str().expect("a text").contains("away since")
            || letters[3]["error"].as_str().expect("a text").contains("503"),
        "{letters:?}"
    );
    service.stop().await;
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let service = Service::that_calls().await;
    let receiver = Receiver::start(Mood::Answers(307)).await;
    service.hooked("hook", &json!({"url": receiver.url()})).await;
    service.submit("one").await;
    eventually("a dead letter", async || (!service.dead("hook").await.is_empty()).then_some(())).await;
    assert!(service.dead("hook").await[0]["error"].as_str().expect("a text").contains("redirects are not followed"));
    assert!(receiver.messages().iter().all(|message| message.path == "/hook"));
    service.stop().await;
}

#[tokio::test]
async fn this_machine_and_its_link_are_not_called_unless_allowed() {
    let service = Service::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    for url in [
        format!("http://127.0.0.1:{port}/"),
        format!("https://127.0.0.1:{port}/"),
        format!("https://[::1]:{port}/"),
        "https://169.254.169.254/latest/meta-data/".to_owned(),
        "http://example.org/".to_owned(),
        "https://user:secret@example.org/".to_owned(),
        "ftp://example.org/".to_owned(),
        "x".to_owned(),
        String::new(),
    ] {
        let answer = service.hook("hook", &json!({"url": url})).await;
        assert_eq!(answer.problem(), is(422, "invalid"), "{url}");
    }
    for wrong in [
        json!({"url": "https://example.org", "secret": "short"}),
        json!({"url": "https://example.org", "deployment_id": "../x"}),
        json!({"url": "https://example.org", "types": [""]}),
        json!({"url": "https://example.org", "after": "now"}),
        json!({"url": "https://example.org", "colour": "red"}),
    ] {
        assert_eq!(service.hook("hook", &wrong).await.problem(), is(422, "invalid"), "{wrong}");
    }
    // A name is looked up when it is called.
    service.hooked("hook", &json!({"url": format!("https://localhost:{port}/")})).await;
    service.submit("one").await;
    let hook = eventually("a failure", async || {
        let hook = service.hook_is("hook").await;
        hook["error"].is_string().then_some(hook)
    })
    .await;
    assert!(hook["error"].as_str().expect("a text").contains("egress.allow"), "{hook}");
    assert!(futures::FutureExt::now_or_never(listener.accept()).is_none(), "nobody has called");
    service.stop().await;
}

#[tokio::test]
async fn deliveries_go_on_after_redis_was_away() {
    let mut service = Service::that_calls().await;
    let receiver = Receiver::start(Mood::Takes).await;
    service.hooked("hook", &json!({"url": receiver.url()})).await;
    let job = service.running("one").await;
    receiver.got(3).await;
    service.redis.kill();
    service.redis.restart().await;
    service.end("one", &job, 0).await;
    eventually("the end has arrived", async || {
        receiver.messages().last().is_some_and(|message| message.state() == "succeeded").then_some(())
    })
    .await;
    service.stop().await;
}
