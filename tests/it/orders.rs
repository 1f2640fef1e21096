//! Orders on a real Redis and an engine in memory: every task is done once, whoever does it and whatever dies in between.

use std::collections::BTreeSet;

use lockstep::dispatch::{NewOrder, OrderCommand, OrderRefusal};
use lockstep::model::ids::{JobId, Word};
use lockstep::model::job::{Intent, Outcome};
use lockstep::model::order::command::Refused;
use lockstep::model::order::{Order, OrderId, State, Task, TaskState, environment, file};
use serde_json::{Value, json};

use super::releases::{Installation, Running, word};
use super::support::eventually;

const ENVIRONMENT: &str = "\
environment: shop
modes:
  production:
    hosts: [{name: one, address: one.shop.test, user: deploy, memory: 1000}]
    proxy: {host: one}
";

const ORDER: &str = "\
action: update
environment_id: shop
api:
  domains: [api.shop.test]
  services:
    - {id: a, path: /a, repository: {url: 'file:///srv/a'}, type: node, roles: [discovery], variables: [password]}
    - {id: b, path: /b, repository: {url: 'file:///srv/b'}, type: node, variables: [password]}
";

async fn register(one: &Running) {
    let environment = environment::read(ENVIRONMENT).expect("an environment");
    one.dispatcher.register_environment(&environment, ENVIRONMENT, "ada").await.expect("registered");
}

async fn try_order(one: &Running, text: &str, key: Option<&str>) -> Result<Order, OrderRefusal> {
    let new = NewOrder {
        spec: file::read(text).expect("an order"),
        file: text.to_owned(),
        mode: word("production"),
        by: word("ada"),
        idempotency_key: key.map(str::to_owned),
    };
    one.dispatcher.give_order(new).await.map(|stored| stored.order)
}

async fn order(one: &Running, text: &str) -> OrderId {
    try_order(one, text, None).await.expect("given").id
}

async fn seen(one: &Running, id: &OrderId) -> Order {
    one.dispatcher.seen_order(id).await.expect("an order").order
}

async fn is(one: &Running, id: &OrderId, state: State) -> Order {
    eventually(&format!("the order is {}", state.word()), async || {
        let order = one.dispatcher.seen_order(id).await.ok()?.order;
        (order.state == state).then_some(order)
    })
    .await
}

/// What the job of a container was told.
fn told(here: &Installation, container: &str) -> Value {
    let vars: Value = serde_json::from_slice(&here.engine.content(container, "/run/lockstep/vars.json")).expect("JSON");
    vars["lockstep_order"].clone()
}

/// Waits for the job under a lock; its container, and what it was told.
async fn begun(here: &Installation, lock: &str) -> (String, Value) {
    let container = here.engine.begun(lock).await;
    let told = told(here, &container);
    (container, told)
}

/// What the job of a task reports.
fn outputs(told: &Value) -> Value {
    match told["task"].as_str() {
        Some("domains") => {
            let of = |it: &Value| (it["service"].as_str().expect("a service").to_owned(), Value::from("a".repeat(40)));
            json!({"commits": told["repositories"].as_array().into_iter().flatten().map(of).collect::<serde_json::Map<_, _>>()})
        }
        Some("resources") => {
            let of =
                |(n, it): (usize, &Value)| (it["service"].as_str().expect("a service").to_owned(), json!(20_000 + n));
            let ports = told["placements"].as_array().into_iter().flatten().enumerate().map(of);
            json!({"ports": ports.collect::<serde_json::Map<_, _>>()})
        }
        _ => json!({}),
    }
}

/// Lets the job under a lock succeed, if it is the one for this task.
async fn succeed(here: &Installation, one: &Running, lock: &str, task: &str) -> Value {
    let (container, told) = begun(here, lock).await;
    assert_eq!(told["task"], task, "{told}");
    let job = here.engine.spec(&container).labels.job;
    let report = json!({"outputs": outputs(&told)}).as_object().cloned().expect("an object");
    one.store().progress(job, &report).await.expect("Redis answers");
    here.engine.exit(&container, 0);
    told
}

/// Lets all that an order has begun succeed, until it has.
async fn finish(here: &Installation, one: &Running, id: &OrderId) -> Vec<String> {
    let mut done = Vec::new();
    eventually("the order has succeeded", async || {
        for container in here.engine.running() {
            let told = told(here, &container);
            let labels = here.engine.spec(&container).labels;
            let report = json!({"outputs": outputs(&told)}).as_object().cloned().expect("an object");
            one.store().progress(labels.job, &report).await.expect("Redis answers");
            here.engine.exit(&container, 0);
            done.push(format!("{} {}", labels.action, labels.inventory));
        }
        (seen(one, id).await.state == State::Succeeded).then_some(())
    })
    .await;
    done
}

async fn output_of(one: &Running, job: JobId) -> String {
    let (bytes, _) = one.store().output(job, 0, 1 << 20).await.expect("Redis answers").expect("a job");
    String::from_utf8(bytes).expect("UTF-8")
}

const WHOLE: &str = "shop/environment";

async fn to_services(here: &Installation, one: &Running) {
    for task in ["domains", "resources", "variables"] {
        succeed(here, one, WHOLE, task).await;
    }
}

fn state_of(order: &Order, task: Task) -> TaskState {
    order.tasks.iter().find(|it| it.task == task).expect("a task").state
}

/// Actions and locks of all jobs that there ever were, oldest first.
async fn jobs(one: &Running) -> Vec<String> {
    let mut jobs = Vec::new();
    for number in 1..10 {
        let id = OrderId { environment: word("shop"), number };
        let Ok(stored) = one.dispatcher.seen_order(&id).await else { break };
        for run in stored.order.tasks.iter().flat_map(|task| &task.runs) {
            let record = one.store().record(run.job).await.expect("Redis answers").expect("a job");
            assert_eq!(record.order, Some(id.clone()));
            jobs.push(format!("{} {}", record.action, record.inventory));
        }
    }
    jobs
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_goes_on_where_it_stopped_whatever_dispatcher_is_there() {
    let here = Installation::new().await;
    let mut one = here.start("one").await;
    register(&one).await;
    let id = order(&one, ORDER).await;
    // A dispatcher dies while each task runs, and another goes on.
    for (number, task) in ["domains", "resources", "variables"].into_iter().enumerate() {
        here.engine.begun(WHOLE).await;
        one.crash();
        one = here.start(&format!("after-{number}")).await;
        let told = succeed(&here, &one, WHOLE, task).await;
        assert_eq!((&told["environment"], &told["order"]), (&json!("shop"), &json!(1)));
    }
    let (a, b) = (here.engine.begun("shop/a").await, here.engine.begun("shop/b").await);
    here.engine.exit(&a, 0);
    one.crash();
    here.engine.exit(&b, 0);
    let one = here.start("last").await;
    let routes = succeed(&here, &one, WHOLE, "routes").await;
    assert_eq!(routes["routes"].as_array().map(Vec::len), Some(2), "{routes}");
    let order = is(&one, &id, State::Succeeded).await;
    assert!(order.tasks.iter().all(|task| task.state == TaskState::Done));
    let done = jobs(&one).await;
    assert_eq!(done.len(), 6, "each once: {done:?}");
    assert_eq!(done.iter().collect::<BTreeSet<_>>().len(), 6);
    assert!(here.engine.violations().is_empty());
    let environment = one.dispatcher.environment(&word("shop")).await.expect("it is there");
    assert_eq!(environment.holder, None);
    let (deployed, vault) = &environment.modes[&word("production")];
    assert_eq!(deployed.services.len(), 2);
    assert_eq!(vault, &BTreeSet::from([word("password")]));
    let events = one.store().events(lockstep::model::event::Cursor::START, 1000).await.expect("Redis answers").events;
    let told: Vec<_> = events.iter().filter(|event| event.kind == "order").map(|event| event.what.as_str()).collect();
    for what in [
        "queued",
        "started",
        "domains.started",
        "services.a.started",
        "services.a.finished",
        "routes.finished",
        "finished",
    ] {
        assert_eq!(told.iter().filter(|it| **it == what).count(), 1, "{what}: {told:?}");
    }
    // Whoever registers another host in the place of this one is told what he leaves behind.
    let moved = environment::read(&ENVIRONMENT.replace("one.shop.test", "two.shop.test")).expect("an environment");
    let (_, left) = one.dispatcher.register_environment(&moved, "", "ada").await.expect("registered");
    let service = |id: &str| format!("production: service {id} on one (one.shop.test)");
    assert_eq!(left, [service("a"), service("b"), "production: the proxy on one (one.shop.test), port 8080".into()]);
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_are_drawn_once_and_stand_nowhere_in_plain() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    register(&one).await;
    let id = order(&one, ORDER).await;
    succeed(&here, &one, WHOLE, "domains").await;
    succeed(&here, &one, WHOLE, "resources").await;
    let (container, told) = begun(&here, WHOLE).await;
    let password = told["variables"]["a"]["values"]["PASSWORD"].as_str().expect("a value").to_owned();
    assert_eq!(told["variables"]["b"]["values"]["PASSWORD"], json!(password), "one for the environment");
    assert!(password.len() == 64 && password.bytes().all(|byte| byte.is_ascii_hexdigit()), "it is strong");
    // What shows it is masked.
    here.engine.print(&container, format!("the password is {password}\n").as_bytes());
    here.engine.exit(&container, 1);
    let order = is(&one, &id, State::Failed).await;
    let job = order.tasks[2].runs[0].job;
    let output = output_of(&one, job).await;
    assert!(output.contains("the password is") && !output.contains(&password), "{output}");

    // Nothing in Redis holds it.
    let mut connection = here.redis.connect().await;
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.expect("keys");
    for key in keys {
        let dump: Vec<u8> = redis::cmd("DUMP").arg(&key).query_async(&mut connection).await.expect("a dump");
        assert!(!dump.windows(password.len()).any(|window| window == password.as_bytes()), "{key}");
    }
    // Another try hands over the same.
    let retry = OrderCommand::Retry { by: word("ada"), reason: String::new() };
    one.dispatcher.change_order(&id, &retry).await.expect("tried again");
    let told = succeed(&here, &one, WHOLE, "variables").await;
    assert_eq!(told["variables"]["a"]["values"]["PASSWORD"], json!(password));
    // A job of a service masks it too, and is not told of it.
    let (container, told) = begun(&here, "shop/a").await;
    assert!(!told.to_string().contains(&password));
    let job = here.engine.spec(&container).labels.job;
    here.engine.print(&container, format!("its log shows {password}\n").as_bytes());
    here.engine.exit(&container, 0);
    eventually("the job has ended", async || one.store().record(job).await.ok()??.state.is_ended().then_some(())).await;
    let output = output_of(&one, job).await;
    assert!(output.contains("its log shows") && !output.contains(&password), "{output}");
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_order_at_a_time_and_a_newer_one_comes_first() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    register(&one).await;
    let first = order(&one, ORDER).await;
    begun(&here, WHOLE).await;
    let second = order(&one, ORDER).await;
    let third = order(&one, ORDER).await;
    assert_eq!((second.number, third.number), (2, 3));
    is(&one, &second, State::Superseded).await;
    assert_eq!((seen(&one, &first).await.state, seen(&one, &third).await.state), (State::Running, State::Queued));
    succeed(&here, &one, WHOLE, "domains").await;
    is(&one, &first, State::Superseded).await;
    to_services(&here, &one).await;
    for lock in ["shop/a", "shop/b"] {
        succeed(&here, &one, lock, "service").await;
    }
    succeed(&here, &one, WHOLE, "routes").await;
    is(&one, &third, State::Succeeded).await;
    // An older one can be given anew, and not be tried again.
    let retry = OrderCommand::Retry { by: word("ada"), reason: String::new() };
    let refused = one.dispatcher.change_order(&first, &retry).await;
    assert!(matches!(refused, Err(OrderRefusal::Refused(_))), "{refused:?}");
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_fails_or_is_frozen_holds_up_no_other() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    register(&one).await;
    let frozen = "shop/a".parse().expect("a lock");
    one.store().freeze(&frozen, "a test", "ada", None).await.expect("frozen");
    let id = order(&one, ORDER).await;
    to_services(&here, &one).await;
    let (container, _) = begun(&here, "shop/b").await;
    let report = json!({"failures": [{"host": "one", "task": "Start it", "message": "there is no database"}]});
    let job = here.engine.spec(&container).labels.job;
    one.store().progress(job, report.as_object().expect("an object")).await.expect("Redis answers");
    here.engine.exit(&container, 1);
    eventually("the failure is noted", async || {
        let order = one.dispatcher.seen_order(&id).await.ok()?.order;
        (!order.failures().is_empty()).then_some(())
    })
    .await;
    let order = seen(&one, &id).await;
    assert_eq!(order.state, State::Running, "the frozen one is waited for");
    let waits = one.store().waits(&order.busy_locks()).await.expect("Redis answers");
    let waits: Vec<_> = waits.values().map(|lock| (&lock.inventory, lock.freeze.as_ref())).collect();
    assert!(matches!(waits[..], [(lock, Some(freeze))] if *lock == frozen && freeze.reason == "a test"), "{waits:?}");
    assert!(one.store().unfreeze(&frozen).await.expect("Redis answers"), "it was frozen");
    let (_, told) = begun(&here, "shop/a").await;
    assert_eq!(told["service"]["variables"], json!(["PASSWORD"]));
    let busy = seen(&one, &id).await.busy_locks();
    assert_eq!((busy.len(), one.store().waits(&busy).await.expect("Redis answers").len()), (1, 0));
    succeed(&here, &one, "shop/a", "service").await;
    let routes = succeed(&here, &one, WHOLE, "routes").await;
    assert_eq!(routes["routes"].as_array().map(Vec::len), Some(1), "{routes}");
    let order = is(&one, &id, State::Incomplete).await;
    assert_eq!(order.reason.as_deref(), Some("not as ordered: service b"));
    assert_eq!(
        order.failures()[0].trouble.as_deref(),
        Some("Start it: there is no database"),
        "in the playbook's words"
    );
    let retry = OrderCommand::Retry { by: word("ada"), reason: "mended".into() };
    one.dispatcher.change_order(&id, &retry).await.expect("tried again");
    succeed(&here, &one, "shop/b", "service").await;
    succeed(&here, &one, WHOLE, "routes").await;
    let order = is(&one, &id, State::Succeeded).await;
    let again: Vec<_> = order.tasks.iter().flat_map(|task| &task.runs).filter(|run| run.attempt == 2).collect();
    assert_eq!(again.iter().map(|run| run.service.clone()).collect::<Vec<_>>(), [Some(word("b")), None]);
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_canceled_ends_its_jobs() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    register(&one).await;
    let id = order(&one, ORDER).await;
    to_services(&here, &one).await;
    here.engine.begun("shop/a").await;
    here.engine.begun("shop/b").await;
    let cancel = OrderCommand::Cancel { by: word("ada"), reason: "a mistake".into() };
    one.dispatcher.change_order(&id, &cancel).await.expect("canceled");
    for job in seen(&one, &id).await.busy_jobs() {
        eventually("the job is told to end", async || {
            one.store().record(job).await.ok()??.intent.filter(|intent| *intent == Intent::Cancel)
        })
        .await;
    }
    // Their containers end when they are told to.
    let order = is(&one, &id, State::Canceled).await;
    assert!(order.tasks[3].runs.iter().all(|run| run.outcome == Some(Outcome::Canceled)));
    assert_eq!(state_of(&order, Task::Routes), TaskState::Waiting);
    assert_eq!(one.dispatcher.environment(&word("shop")).await.expect("it is there").holder, None);
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_is_one_order_and_what_cannot_be_carried_out_is_none() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    let unknown = try_order(&one, ORDER, None).await;
    assert!(matches!(unknown, Err(OrderRefusal::UnknownEnvironment(_))), "{unknown:?}");
    register(&one).await;
    let first = try_order(&one, ORDER, Some("key")).await.expect("given").id;
    assert_eq!(try_order(&one, ORDER, Some("key")).await.expect("the same").id, first);
    let other = ORDER.replace("/a,", "/c,");
    assert!(matches!(try_order(&one, &other, Some("key")).await, Err(OrderRefusal::KeyReused)));
    let large = ORDER.replace("type: node, variables", "type: node, memory: 5000, variables");
    let Err(OrderRefusal::Problems(problems)) = try_order(&one, &large, None).await else { panic!("it has no room") };
    assert!(problems[0].starts_with("no host has room for service b, which takes 5000 MiB"), "{problems:?}");
    let newest: u64 = one.dispatcher.environment(&word("shop")).await.expect("it is there").newest;
    assert_eq!(newest, 1, "nothing else was given");
    let nobody: Word = word("nobody");
    assert!(one.dispatcher.environment(&nobody).await.is_err());
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_dispatchers_carry_out_one_order_once() {
    let here = Installation::new().await;
    let (one, two) = (here.start("one").await, here.start("two").await);
    register(&one).await;
    let id = order(&two, ORDER).await;
    to_services(&here, &one).await;
    for lock in ["shop/a", "shop/b"] {
        succeed(&here, &two, lock, "service").await;
    }
    succeed(&here, &one, WHOLE, "routes").await;
    is(&one, &id, State::Succeeded).await;
    assert_eq!(jobs(&two).await.len(), 6);
    assert!(here.engine.violations().is_empty());
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_says_less_waits_and_takes_nobodys_place() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    let two_modes = format!(
        "{ENVIRONMENT}  staging:\n    hosts: [{{name: two, address: two.shop.test, user: deploy, memory: 1000}}]\n    proxy: {{host: two}}\n"
    );
    let environment = environment::read(&two_modes).expect("an environment");
    one.dispatcher.register_environment(&environment, &two_modes, "ada").await.expect("registered");
    let first = order(&one, ORDER).await;
    to_services(&here, &one).await;
    for lock in ["shop/a", "shop/b"] {
        succeed(&here, &one, lock, "service").await;
    }
    begun(&here, WHOLE).await;
    // One of another mode, one that removes a service, and one that is ended before it begins.
    let to_staging = || NewOrder {
        spec: file::read(ORDER).expect("an order"),
        file: ORDER.to_owned(),
        mode: word("staging"),
        by: word("ada"),
        idempotency_key: None,
    };
    let staging = one.dispatcher.give_order(to_staging()).await.expect("given").order.id;
    let part = order(&one, "action: remove\nenvironment_id: shop\nx:\n  services: [{id: b}]\n").await;
    succeed(&here, &one, WHOLE, "routes").await;
    is(&one, &first, State::Succeeded).await;
    // Whichever begins first, both are carried out.
    eventually("both are carried out", async || {
        let states = (seen(&one, &staging).await.state, seen(&one, &part).await.state);
        if states == (State::Succeeded, State::Succeeded) {
            return Some(());
        }
        assert!(!matches!(states.0, State::Superseded | State::Failed) && states.1 != State::Superseded, "{states:?}");
        for container in here.engine.running() {
            let told = told(&here, &container);
            let job = here.engine.spec(&container).labels.job;
            let report = json!({"outputs": outputs(&told)}).as_object().cloned().expect("an object");
            one.store().progress(job, &report).await.expect("Redis answers");
            here.engine.exit(&container, 0);
        }
        None
    })
    .await;

    let running = order(&one, ORDER).await;
    begun(&here, WHOLE).await;
    let waits = order(&one, ORDER).await;
    let cancel = OrderCommand::Cancel { by: word("ada"), reason: String::new() };
    one.dispatcher.change_order(&waits, &cancel).await.expect("canceled");
    is(&one, &waits, State::Canceled).await;
    succeed(&here, &one, WHOLE, "domains").await;
    let go_on = eventually("it goes on", async || {
        let order = seen(&one, &running).await;
        (state_of(&order, Task::Domains) == TaskState::Done).then_some(order)
    })
    .await;
    assert_ne!(go_on.state, State::Superseded, "what was ended takes nobody's place");

    // Nor does it give back the place of one that had given way: what counts again is the newest that has begun.
    let cancel = async |id: &OrderId| {
        one.dispatcher.change_order(id, &cancel).await.expect("canceled");
        is(&one, id, State::Canceled).await;
    };
    cancel(&running).await;
    let next = order(&one, ORDER).await;
    begun(&here, WHOLE).await;
    cancel(&next).await;
    one.dispatcher.give_order(to_staging()).await.expect("given");
    begun(&here, WHOLE).await;
    let waits = order(&one, ORDER).await;
    cancel(&waits).await;
    let retry = OrderCommand::Retry { by: word("ada"), reason: String::new() };
    let refused = one.dispatcher.change_order(&running, &retry).await.expect_err("a newer one has begun");
    assert!(
        matches!(refused, OrderRefusal::Refused(Refused::Newer(newest)) if newest == next.number),
        "{refused}, newest {next}"
    );
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_says_at_last_is_read_from_its_container_if_nobody_has_heard_it() {
    let here = Installation::new().await;
    let mut one = here.start("one").await;
    register(&one).await;
    let id = order(&one, ORDER).await;
    let (container, told) = begun(&here, WHOLE).await;
    let path = "/run/lockstep/report.json";
    assert_eq!(here.engine.content(&container, path), b"", "it is there for it");
    // Nobody is there to hear it, nor when it ends.
    one.stop().await;
    let job = here.engine.spec(&container).labels.job;
    let report = json!({"task": "Say", "tasks_done": 7, "outputs": outputs(&told), "recap": {}});
    here.engine.write(&container, path, report.to_string().as_bytes());
    here.engine.exit(&container, 0);
    one = here.start("one").await;
    let (container, told) = begun(&here, WHOLE).await;
    assert_eq!(told["task"], "resources");
    assert_eq!(seen(&one, &id).await.commits.len(), 2);
    let view = one.store().job(job, None).await.expect("Redis answers").0.expect("a job");
    assert_eq!(view.progress.expect("heard")["tasks_done"], 7);

    // What cannot be read is not taken for anything.
    here.engine.write(&container, path, b"{\"outputs\": ");
    here.engine.exit(&container, 0);
    let order = is(&one, &id, State::Failed).await;
    assert!(order.reason.expect("a reason").contains("did not say which port"));
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_an_older_redis_says_is_deployed_is_relied_on() {
    let mut here = Installation::new().await;
    let one = here.start("one").await;
    register(&one).await;
    let first = order(&one, ORDER).await;
    finish(&here, &one, &first).await;
    let again = order(&one, ORDER).await;
    assert_eq!(finish(&here, &one, &again).await, ["order-domains shop/environment"], "nothing differs");
    here.redis.kill();
    let aside = here.redis.save();
    here.redis.restart().await;
    let later = order(&one, &ORDER.replace("path: /b", "path: /c")).await;
    finish(&here, &one, &later).await;
    here.redis.restart_on(&aside).await;
    let after = eventually("the memory is known again", async || try_order(&one, ORDER, None).await.ok()).await.id;
    assert_eq!(after, later, "of that one nothing is known");
    let done: BTreeSet<String> = finish(&here, &one, &after).await.into_iter().collect();
    let all = [
        "order-domains shop/environment",
        "order-routes shop/environment",
        "order-service shop/a",
        "order-service shop/b",
        "order-variables shop/environment",
    ];
    assert_eq!(done.iter().map(String::as_str).collect::<Vec<_>>(), all);
    let last = order(&one, ORDER).await;
    assert_eq!(finish(&here, &one, &last).await, ["order-domains shop/environment"], "all was compared once");
    one.stop().await;
}
