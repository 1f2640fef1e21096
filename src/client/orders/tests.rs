use serde_json::{Value, json};

use super::came_to;
use super::follow::Told;
use super::{environments, list, plan, show};
use crate::wire::{EnvironmentView, OrderView, PlanView};

/// The job of a number.
fn job_id(number: u32) -> String {
    format!("01GZEC5GJHFKWMK4Z5A1NM9DP{number}")
}

/// A job of the environment, or of a service; no outcome: it runs.
fn job(number: u32, service: Option<(&str, &str, &str)>, outcome: Option<&str>, more: Value) -> Value {
    let mut job = json!({"job_id": job_id(number), "operation": "configure", "attempt": 1});
    if let Some((operation, service, host)) = service {
        job["operation"] = json!(operation);
        job["service"] = json!(service);
        job["host"] = json!(host);
    }
    if let Some(outcome) = outcome {
        job["outcome"] = json!(outcome);
    }
    job.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
    job
}

/// The five tasks, each with its state and jobs.
fn tasks(of: [(&str, Vec<Value>); 5]) -> Value {
    let names = ["domains", "resources", "variables", "services", "routes"];
    names.into_iter().zip(of).map(|(task, (state, jobs))| json!({"task": task, "state": state, "jobs": jobs})).collect()
}

fn order(state: &str, tasks: Value, more: Value) -> OrderView {
    let mut order = json!({
        "id": "3/7", "environment": "3", "number": 7, "mode": "production", "action": "update", "state": state,
        "services": 3, "services_done": 0, "by": "ada", "created_at": "2026-11-28T15:00:00.123Z",
        "started_at": "2026-11-28T15:00:01.000Z", "revision": 4, "attempt": 1, "tasks": tasks, "commits": {}, "failed": [],
    });
    order.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
    serde_json::from_value(order).expect("an order")
}

/// An order that is incomplete: one service of three has failed.
fn incomplete() -> OrderView {
    let trouble = json!({"trouble": "npm ci ended with 1:\nnpm error\u{1b}[31m 404\n::error::gone"});
    let all = tasks([
        ("done", vec![job(1, None, Some("succeeded"), json!({}))]),
        ("done", vec![job(2, None, Some("succeeded"), json!({}))]),
        ("done", vec![]),
        (
            "failed",
            vec![
                job(3, Some(("deploy", "6", "host-a")), Some("failed"), trouble),
                job(4, Some(("deploy", "7", "host-b")), Some("succeeded"), json!({})),
            ],
        ),
        (
            "done",
            vec![
                job(5, None, Some("succeeded"), json!({})),
                job(6, Some(("remove", "9", "host-b")), Some("succeeded"), json!({})),
            ],
        ),
    ]);
    let more = json!({
        "services_done": 2, "failed": ["6"], "reason": "not as ordered: service 6", "ended_at": "2026-11-28T15:02:04.000Z",
        "commits": {"6": "0123456789abcdef0123456789abcdef01234567", "7": "89abcdef0123456789abcdef0123456789abcdef"},
    });
    order("incomplete", all, more)
}

#[test]
fn a_plan_says_what_differs() {
    let view: PlanView = serde_json::from_value(json!({
        "environment": "3", "mode": "production", "action": "update",
        "services": [
            {"id": "6", "change": "update", "host": "host-a", "port": 20001, "why": ["type: node to python", "LOG_LEVEL in its environment"]},
            {"id": "7", "change": "keep", "host": "host-a", "port": 20002},
            {"id": "8", "change": "create", "host": "host-b"},
            {"id": "9", "change": "remove", "host": "host-b", "why": ["the order does not have it"]},
            {"id": "worker-10", "change": "move", "host": "host-b", "why": ["from host-a to host-b"]},
        ],
        "domains": {"add": ["api.lab.example"], "remove": ["old.lab.example"]},
        "routes": {
            "add": [{"domain": "api.lab.example", "path": "/core", "service": "8"}],
            "remove": [{"domain": "old.lab.example", "path": "/", "service": "9"}],
        },
        "generate": ["database-password"], "problems": [],
        "unchecked": ["the repositories\u{1b}[2J, which runner containers reach"],
    }))
    .expect("a plan");
    insta::assert_snapshot!(plan::lines(&view, false).join("\n"), @r"
    plan for environment 3 (production), update: 1 to create, 1 to update, 1 to move, 1 to remove, 1 to keep
      ~  6          update  host-a:20001  type: node to python; LOG_LEVEL in its environment
      =  7          keep    host-a:20002
      +  8          create  host-b
      -  9          remove  host-b        the order does not have it
      >  worker-10  move    host-b        from host-a to host-b
      +  domain api.lab.example
      +  route api.lab.example/core to service 8
      -  domain old.lab.example
      -  route old.lab.example/ to service 9
      +  variable of the vault database-password, which is drawn
    not looked at yet: the repositories, which runner containers reach
    ");
    assert_eq!(plan::sum(&view), "1 to create, 1 to update, 1 to move, 1 to remove, 1 to keep");

    let problems = vec!["no host has room for service 8, which takes 4096 MiB".to_owned()];
    let view = PlanView { services: vec![], problems, unchecked: vec![], generate: vec![], ..view };
    let lines = plan::lines(&view, true);
    assert!(lines[0].ends_with(": no service"), "{lines:?}");
    let last = "\u{1b}[1;31mit cannot be carried out: no host has room for service 8, which takes 4096 MiB\u{1b}[0m";
    assert_eq!(lines.last().map(String::as_str), Some(last));
}

#[test]
fn an_order_is_shown_task_by_task() {
    insta::assert_snapshot!(show::sheet(&incomplete(), false).join("\n"), @r"
    order        3/7
    environment  3 (production)
    action       update
    state        incomplete: not as ordered: service 6
    services     2 of 3 as ordered
    given        2026-11-28T15:00:00Z by ada
    begun        2026-11-28T15:00:01Z
    ended        2026-11-28T15:02:04Z (2 min 3 s)
    commits      6 0123456789ab
                 7 89abcdef0123

    task 1 of 5 domains    done
        job 01GZEC5GJHFKWMK4Z5A1NM9DP1: succeeded
    task 2 of 5 resources  done
        job 01GZEC5GJHFKWMK4Z5A1NM9DP2: succeeded
    task 3 of 5 variables  nothing to do
    task 4 of 5 services   failed
        job 01GZEC5GJHFKWMK4Z5A1NM9DP3  deploy 6 on host-a: failed: npm ci ended with 1: npm error 404 ::error::gone
        job 01GZEC5GJHFKWMK4Z5A1NM9DP4  deploy 7 on host-b: succeeded
    task 5 of 5 routes     done
        job 01GZEC5GJHFKWMK4Z5A1NM9DP5: succeeded
        job 01GZEC5GJHFKWMK4Z5A1NM9DP6  remove 9 on host-b: succeeded
    ");
    // In a second attempt, what the first has left stands in its place.
    let mut view = incomplete();
    view.attempt = 2;
    view.tasks[3].jobs.push(
        serde_json::from_value(job(7, Some(("deploy", "6", "host-a")), None, json!({"attempt": 2}))).expect("a job"),
    );
    let lines = show::sheet(&view, false);
    let of_services: Vec<&String> = lines.iter().filter(|line| line.contains("deploy 6")).collect();
    assert!(of_services[0].ends_with("::error::gone  (attempt 1)") && of_services[1].ends_with(": not over"));
}

#[test]
fn the_end_says_what_failed_and_where_it_says_why() {
    let logs = |job: &str| format!("lockstep logs {job}");
    insta::assert_snapshot!(show::end(&incomplete(), false, logs).join("\n"), @r"

    task 4 of 5 services, deploy 6 on host-a: failed
      | npm ci ended with 1:
      | npm error 404
      | ::error::gone
      its output: lockstep logs 01GZEC5GJHFKWMK4Z5A1NM9DP3

    order 3/7 for environment 3 (production): incomplete after 2 min 3 s: not as ordered: service 6
    to try again what has not succeeded: lockstep order retry 3/7
    ");
    let lines: Vec<String> = (1..=30).map(|n| format!("line {n}")).collect();
    let failed = job(1, None, Some("failed"), json!({"trouble": lines.join("\n")}));
    let nothing = || ("waiting", vec![]);
    let all = tasks([("failed", vec![failed]), nothing(), nothing(), nothing(), nothing()]);
    let shown = show::end(&order("failed", all, json!({})), false, logs);
    assert_eq!(shown[11..14], ["  | line 10", "  | … 10 lines …", "  | line 21"]);
    assert_eq!(shown[22], "  | line 30");
    let good = order("succeeded", tasks(std::array::from_fn(|_| ("done", vec![]))), json!({"services_done": 3}));
    assert_eq!(show::end(&good, false, logs), ["", "order 3/7 for environment 3 (production): succeeded"]);
    let reason = json!({"reason": "order 3/8 is newer"});
    let superseded = order("superseded", tasks(std::array::from_fn(|_| ("waiting", vec![]))), reason);
    assert_eq!(
        show::end(&superseded, false, logs),
        ["", "order 3/7 for environment 3 (production): superseded: order 3/8 is newer"]
    );
}

#[test]
fn only_what_is_as_ordered_is_green() {
    for (state, code) in [
        ("succeeded", 0),
        ("incomplete", 1),
        ("failed", 1),
        ("canceled", 1),
        ("superseded", 5),
        ("queued", 6),
        ("running", 6),
        ("canceling", 6),
    ] {
        let view = order(state, tasks(std::array::from_fn(|_| ("waiting", vec![]))), json!({}));
        assert_eq!(came_to(&view.summary).code(), code, "{state}");
    }
}

/// What is told as the order goes from one of these to the next.
fn told(views: &[OrderView]) -> String {
    let mut told = Told::default();
    let mut lines = Vec::new();
    for view in views {
        lines.extend(told.news(view).into_iter().map(|(line, _)| line));
        assert!(told.news(view).is_empty(), "nothing is told twice");
        lines.push("--".to_owned());
    }
    lines.join("\n")
}

#[test]
fn what_happens_is_told_once() {
    let waiting = || ("waiting", vec![]);
    let one = |number, state: &'static str, outcome| (state, vec![job(number, None, outcome, json!({}))]);
    let done = || [one(1, "done", Some("succeeded")), one(2, "done", Some("succeeded")), ("done", vec![])];
    let deploy = |number, service, host, outcome| job(number, Some(("deploy", service, host)), outcome, json!({}));
    let [first, second, third] = done();
    let with = |services, routes| {
        let [first, second, third] = done();
        tasks([first, second, third, services, routes])
    };
    let services = |six, seven| {
        let jobs = vec![deploy(3, "6", "host-a", six), deploy(4, "7", "host-b", seven)];
        (if six.is_some() && seven.is_some() { "failed" } else { "running" }, jobs)
    };
    let views = [
        order("queued", tasks(std::array::from_fn(|_| waiting())), json!({"started_at": null})),
        order(
            "running",
            tasks([one(1, "running", None), waiting(), waiting(), waiting(), waiting()]),
            json!({"task": 1}),
        ),
        // Much has happened between two answers. One service of three was as ordered before.
        order(
            "running",
            tasks([first, second, third, services(None, Some("succeeded")), waiting()]),
            json!({"task": 4, "services_done": 2}),
        ),
        order(
            "running",
            with(services(Some("failed"), Some("succeeded")), one(5, "running", None)),
            json!({"task": 5, "services_done": 2, "failed": ["6"]}),
        ),
        incomplete(),
    ];
    insta::assert_snapshot!(told(&views), @r"
    order 3/7 for environment 3 (production): queued
    --
    task 1 of 5 domains …
    --
    task 1 of 5 domains: done
    task 2 of 5 resources: done
    task 3 of 5 variables: nothing to do
    task 4 of 5 services …
    service 2 of 3: 7 on host-b: deployed
    --
    service 3 of 3: 6 on host-a: failed (job 01GZEC5GJHFKWMK4Z5A1NM9DP3)
    task 4 of 5 services: not all of it is done
    task 5 of 5 routes …
    --
    service 9 on host-b: removed
    task 5 of 5 routes: done
    --
    ");
}

#[test]
fn who_comes_late_is_told_all_and_another_attempt_is_told_as_one() {
    let mut again = incomplete();
    again.attempt = 2;
    again.summary.state = crate::wire::OrderState::Queued;
    again.summary.reason = None;
    again.tasks[3].state = crate::wire::TaskState::Waiting;
    again.tasks[4].state = crate::wire::TaskState::Waiting;
    again.failed.clear();
    let mut over = again.clone();
    over.summary.state = crate::wire::OrderState::Succeeded;
    over.summary.services_done = 3;
    over.tasks[3].state = crate::wire::TaskState::Done;
    over.tasks[4].state = crate::wire::TaskState::Done;
    let last = job(7, Some(("deploy", "6", "host-a")), Some("succeeded"), json!({"attempt": 2}));
    over.tasks[3].jobs.push(serde_json::from_value(last).expect("a job"));
    insta::assert_snapshot!(told(&[incomplete(), again, over]), @r"
    task 1 of 5 domains: done
    task 2 of 5 resources: done
    task 3 of 5 variables: nothing to do
    task 4 of 5 services …
    service 2 of 3: 6 on host-a: failed: npm ci ended with 1: npm error 404 ::error::gone (job 01GZEC5GJHFKWMK4Z5A1NM9DP3)
    service 3 of 3: 7 on host-b: deployed
    task 4 of 5 services: not all of it is done
    task 5 of 5 routes …
    service 9 on host-b: removed
    task 5 of 5 routes: done
    --
    order 3/7 for environment 3 (production): queued
    task 1 of 5 domains: done before
    task 2 of 5 resources: done before
    task 3 of 5 variables: nothing to do
    --
    task 4 of 5 services …
    service 3 of 3: 6 on host-a: deployed
    task 4 of 5 services: done
    task 5 of 5 routes: nothing to do
    --
    ");
}

#[test]
fn a_task_that_fails_says_why() {
    let trouble = json!({"trouble": "repository of service 6: not found\n"});
    let all = tasks([
        ("failed", vec![job(1, None, Some("failed"), trouble)]),
        ("waiting", vec![]),
        ("waiting", vec![]),
        ("waiting", vec![]),
        ("waiting", vec![]),
    ]);
    let more = json!({"reason": "task domains: repository of service 6: not found"});
    insta::assert_snapshot!(told(&[order("canceling", all.clone(), json!({})), order("failed", all, more)]), @r"
    order 3/7 for environment 3 (production): canceling
    task 1 of 5 domains: failed: repository of service 6: not found
    --
    --
    ");
}

#[test]
fn orders_are_listed_one_a_line() {
    let queued = order("queued", tasks(std::array::from_fn(|_| ("waiting", vec![]))), json!({"id": "3/8"}));
    let all = [queued.summary, incomplete().summary];
    insta::assert_snapshot!(list::rows(&all, false).join("\n"), @r"
    order  mode        action  state       services  given                 by   reason
    3/8    production  update  queued      0 of 3    2026-11-28T15:00:00Z  ada  -
    3/7    production  update  incomplete  2 of 3    2026-11-28T15:00:00Z  ada  not as ordered: service 6
    ");
    assert_eq!(list::rows(&[], false), ["there is no order"]);
}

#[test]
fn an_environment_is_shown_mode_by_mode() {
    let view: EnvironmentView = serde_json::from_value(json!({
        "id": "3", "newest_order": 7, "running_order": 7, "file": "environment: \"3\"", "by": "ada",
        "made_at": "2026-11-28T15:00:00.123Z",
        "modes": {
            "production": {
                "hosts": [
                    {"name": "host-a", "address": "10.1.2.3", "port": 22, "user": "deploy", "key": null, "host_key": null, "memory": 2048},
                    {"name": "host-b", "address": "10.1.2.4", "port": 2222, "user": "deploy", "key": "id", "host_key": null, "memory": 128},
                ],
                "proxy": {"host": "host-a", "port": 8080}, "ports": [20000, 20999], "variables": {"LOG_LEVEL": "info"},
                "services": [
                    {
                        "id": "6", "host": "host-a", "port": 20001, "memory": 256, "type": "node", "doubtful": false,
                        "repository": "https://git.example/auth.git", "commit": "0123456789abcdef0123456789abcdef01234567",
                    },
                    {"id": "7", "host": "host-b", "memory": 256, "doubtful": true},
                ],
                "domains": ["api.lab.example", "new.lab.example"],
                "routes": [{"domain": "api.lab.example", "path": "/core", "service": "6", "address": "10.1.2.3", "port": 20001}],
                "vault": ["database-password", "token"],
            },
            "staging": {
                "hosts": [{"name": "s", "address": "s.example", "port": 22, "user": "deploy", "key": null, "host_key": null, "memory": 512}],
                "proxy": {"host": "s", "port": 8080}, "ports": [20000, 20999], "variables": {},
                "services": [], "domains": [], "routes": [], "vault": [],
            },
        },
    }))
    .expect("an environment");
    insta::assert_snapshot!(environments::sheet(&view, false).join("\n"), @r"
    environment   3
    registered    2026-11-28T15:00:00Z by ada
    newest order  3/7
    carried out   order 3/7

    ── production: proxy on host-a, port 8080; services on ports 20000 to 20999
      host    reached as            room             services
      host-a  deploy@10.1.2.3:22    256 of 2048 MiB  1
      host-b  deploy@10.1.2.4:2222  256 of 128 MiB   1
      service  host    port   type  MiB  commit        repository
      6        host-a  20001  node  256  0123456789ab  https://git.example/auth.git
      7        host-b  -      -     256  -             -                             something else may run: a job that was at it did not succeed, or something of it was gone from its host
      route                 leads to
      api.lab.example/core  service 6, 10.1.2.3:20001
      new.lab.example       nothing yet
      variables: LOG_LEVEL
      in the vault: database-password, token

    ── staging: proxy on s, port 8080; services on ports 20000 to 20999
      host  reached as           room          services
      s     deploy@s.example:22  0 of 512 MiB  0
    ");
}
