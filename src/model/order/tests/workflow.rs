//! The five tasks, one after the other, and what goes wrong in them.

use super::*;
use crate::model::order::command::Refused;
use crate::model::order::plan::routes;

#[test]
fn an_order_goes_through_its_five_tasks() {
    let mut play = Play::new();
    let first = play.give(ORDER);
    play.look(first);
    assert_eq!(play.at_work(), ["order-domains 3/environment"]);
    assert_eq!(play.holder, Some(first));
    let job = *play.running.keys().next().expect("a job");
    let told = play.running[&job].1.vars["lockstep_order"].clone();
    assert_eq!(told["domains"], json!(["api.lab.example", "www.lab.example"]));
    assert_eq!(
        told["repositories"][1],
        json!({"service": "7", "url": "https://git.example/manager.git", "revision": "main"})
    );
    assert_eq!(told["hosts"][0]["address"], "10.0.0.1");

    let resources = play.end(job, Outcome::Succeeded);
    assert_eq!(play.at_work(), ["order-resources 3/environment"]);
    let placements = &resources.launches[0].vars["lockstep_order"]["placements"];
    // The host with the most room first; all of these take the same.
    let hosts: Vec<_> = placements.as_array().expect("a list").iter().map(|it| it["host"].clone()).collect();
    assert_eq!(hosts, ["one", "one", "one"]);
    let variables = play.end(resources.launches[0].job, Outcome::Succeeded);
    assert_eq!(variables.generate, BTreeSet::from([word("api-key"), word("database-password")]));
    let launch = &variables.launches[0];
    assert_eq!(launch.values[&word("7")], BTreeSet::from([word("api-key"), word("database-password")]));
    assert_eq!(launch.vars["lockstep_order"]["variables"]["6"], json!({"host": "one", "values": {}}));

    let services = play.end(launch.job, Outcome::Succeeded);
    assert_eq!(play.at_work(), ["order-service 3/6", "order-service 3/7"], "so many at a time");
    let six = &services.launches[0].vars["lockstep_order"]["service"];
    assert_eq!(six["environment"]["DISCOVERY_URL"], format!("http://10.0.0.1:{}", six["port"]));
    assert_eq!(six["environment"]["LOG_LEVEL"], "info");
    assert_eq!(six["environment"]["SERVICE_ROLES"], "auth,discovery");
    assert_eq!(six["repository"]["commit"], commit(1));
    assert_eq!(six["operation"], "deploy");
    play.end(services.launches[1].job, Outcome::Succeeded);
    assert_eq!(play.at_work(), ["order-service 3/6", "order-service 3/8"]);
    play.play(&[]);
    assert_eq!(play.state(first), State::Succeeded);
    assert_eq!(play.holder, None);
    let spec = &play.orders[&first].spec;
    assert_eq!(play.deployed.routes, routes(spec, &play.deployed));
    assert_eq!(play.deployed.routes.len(), 3);
    for what in [
        "started",
        "domains.started",
        "services.6.started",
        "services.6.finished",
        "services.finished",
        "routes.finished",
        "finished",
    ] {
        assert_eq!(play.told.iter().filter(|told| *told == what).count(), 1, "{what}: {:?}", play.told);
    }
}

#[test]
fn only_what_differs_is_touched() {
    let mut play = Play::new();
    let first = play.give(ORDER);
    play.look(first);
    play.play(&[]);
    // The same once more: the repositories are asked, and that is all.
    let second = play.give(ORDER);
    play.look(second);
    assert_eq!(play.at_work(), ["order-domains 3/environment"]);
    play.play(&[]);
    assert_eq!(play.state(second), State::Succeeded);
    let jobs = play.orders[&second].tasks.iter().map(|task| task.runs.len()).sum::<usize>();
    assert_eq!(jobs, 1);
    // One repository has moved on.
    play.commits.insert("7".into(), commit(77));
    let ports: Vec<_> = play.deployed.services.values().map(|placed| placed.port).collect();
    let third = play.give(&ORDER.replace("path: /core", "path: /kernel"));
    play.look(third);
    play.play(&[]);
    let order = &play.orders[&third];
    let runs: Vec<_> = order.tasks.iter().flat_map(|task| &task.runs).map(|run| run.service.clone()).collect();
    assert_eq!(runs, [None, Some(word("7")), None], "repositories, the service, the routes");
    let after: Vec<_> = play.deployed.services.values().map(|placed| placed.port).collect();
    assert_eq!(ports, after, "ports stay");
    assert!(play.deployed.routes.iter().any(|route| route.path == "/kernel"));
    assert!(play.deployed.routes.iter().all(|route| route.path != "/core"));
}

#[test]
fn a_service_that_fails_holds_up_no_other_and_is_tried_again_alone() {
    let mut play = Play::new();
    let first = play.give(ORDER);
    play.look(first);
    play.play(&["3/6"]);
    assert_eq!(play.state(first), State::Incomplete);
    assert_eq!(play.orders[&first].reason.as_deref(), Some("not as ordered: service 6"));
    assert_eq!(
        (play.task(first, Task::Services), play.task(first, Task::Routes)),
        (TaskState::Failed, TaskState::Done)
    );
    let led: BTreeSet<_> = play.deployed.routes.iter().map(|route| route.service.to_string()).collect();
    assert_eq!(led, BTreeSet::from(["7".into(), "8".into()]), "the others are led to");
    let trouble = play.orders[&first].failures()[0].trouble.clone();
    assert_eq!(trouble.as_deref(), Some("it did not go well"));

    let order = play.orders.get_mut(&first).expect("it is there");
    command::retry(order, 1, &word("ada"), "").expect("it may be tried again");
    play.look(first);
    assert_eq!(play.at_work(), ["order-service 3/6"], "nothing else is done again");
    play.play(&[]);
    assert_eq!(play.state(first), State::Succeeded);
    assert_eq!(play.deployed.routes.len(), 3);
    assert!(play.deployed.services.values().all(|placed| !placed.doubtful));
}

#[test]
fn what_a_first_task_may_have_told_the_proxy_is_taken_back() {
    let mut play = Play::new();
    let first = play.give(ORDER);
    play.look(first);
    play.play(&[]);
    // It may have told the proxy before it was lost.
    let second = play.give(&ORDER.replace("[api.lab.example]", "[api.lab.example, another.lab.example]"));
    play.look(second);
    let job = *play.running.keys().next().expect("a job");
    play.end(job, Outcome::Lost);
    assert_eq!(play.state(second), State::Failed);
    let third = play.give(ORDER);
    play.look(third);
    play.play(&[]);
    let runs = |task: usize| play.orders[&third].tasks[task].runs.len();
    assert_eq!((play.state(third), runs(3), runs(4)), (State::Succeeded, 0, 1));
    assert!(!play.deployed.routes_doubtful);
}

#[test]
fn what_all_depend_on_ends_the_order_and_a_retry_goes_on_there() {
    for (task, runs) in [(Task::Domains, 0), (Task::Resources, 1), (Task::Variables, 2)] {
        let mut play = Play::new();
        let first = play.give(ORDER);
        play.look(first);
        for _ in 0..runs {
            let job = *play.running.keys().next().expect("a job");
            play.end(job, Outcome::Succeeded);
        }
        let job = *play.running.keys().next().expect("a job");
        play.end(job, Outcome::Lost);
        assert_eq!(play.state(first), State::Failed, "{task:?}");
        assert_eq!(play.task(first, task), TaskState::Failed);
        assert!(
            play.orders[&first].reason.as_deref().is_some_and(|why| why.starts_with(&format!("task {}", task.word())))
        );
        assert!(play.running.is_empty() && play.holder.is_none());
        let vault = play.vault.clone();
        let order = play.orders.get_mut(&first).expect("it is there");
        command::retry(order, 1, &word("ada"), "").expect("it may be tried again");
        play.look(first);
        play.play(&[]);
        assert_eq!(play.state(first), State::Succeeded);
        let done = play.orders[&first].tasks.iter().map(|task| task.runs.len()).collect::<Vec<_>>();
        let mut wanted = vec![1, 1, 1, 3, 1];
        wanted[runs] += 1;
        assert_eq!(done, wanted, "what was done is not done again");
        if task == Task::Variables {
            assert_eq!(play.vault, vault, "nothing is drawn twice");
        }
    }
}

#[test]
fn a_newer_order_ends_the_one_before_it_between_tasks() {
    let mut play = Play::new();
    let first = play.give(ORDER);
    play.look(first);
    let second = play.give(ORDER);
    let third = play.give(ORDER);
    play.look(second);
    assert_eq!(play.state(second), State::Superseded, "one that waits gives way at once");
    play.look(third);
    play.look(first);
    assert_eq!(
        (play.state(first), play.state(third)),
        (State::Running, State::Queued),
        "in the middle of a task it goes on"
    );
    let job = *play.running.keys().next().expect("a job");
    play.end(job, Outcome::Succeeded);
    assert_eq!(play.state(first), State::Superseded);
    play.look(third);
    play.play(&[]);
    assert_eq!(play.state(third), State::Succeeded);
    let older = play.orders.get_mut(&first).expect("it is there");
    assert!(matches!(command::retry(older, 3, &word("ada"), ""), Err(Refused::NotFailed(_))));

    // While services are deployed, no further one is begun.
    let mut play = Play::new();
    let first = play.give(ORDER);
    play.look(first);
    while play.at_work() != ["order-service 3/6", "order-service 3/7"] {
        let job = *play.running.keys().next().expect("a job");
        play.end(job, Outcome::Succeeded);
    }
    let second = play.give(ORDER);
    play.look(second);
    let jobs: Vec<_> = play.running.keys().copied().collect();
    for job in jobs {
        play.end(job, Outcome::Succeeded);
    }
    assert_eq!(play.state(first), State::Superseded);
    play.look(second);
    play.play(&[]);
    assert_eq!(play.state(second), State::Succeeded);
    let services = &play.orders[&second].tasks[3].runs;
    assert_eq!(
        services.iter().map(|run| run.service.clone()).collect::<Vec<_>>(),
        [Some(word("8"))],
        "what was deployed stays"
    );
}

#[test]
fn an_order_that_is_canceled_ends_its_jobs_and_may_be_tried_again() {
    let mut play = Play::new();
    let first = play.give(ORDER);
    play.look(first);
    let order = play.orders.get_mut(&first).expect("it is there");
    let told = command::cancel(order, &word("ada"), "a mistake").expect("it may be ended");
    assert_eq!(told[0].what, "canceling");
    let change = play.look(first);
    assert_eq!(change.cancel, play.running.keys().copied().collect::<Vec<_>>());
    assert_eq!(play.state(first), State::Canceling);
    let job = *play.running.keys().next().expect("a job");
    play.end(job, Outcome::Canceled);
    assert_eq!(play.state(first), State::Canceled);
    assert_eq!(play.orders[&first].reason.as_deref(), Some("canceled by ada: a mistake"));
    let order = play.orders.get_mut(&first).expect("it is there");
    assert!(matches!(command::cancel(order, &word("ada"), ""), Err(Refused::Over("canceled"))));
    command::retry(order, 1, &word("ada"), "").expect("it may be tried again");
    play.look(first);
    play.play(&[]);
    assert_eq!(play.state(first), State::Succeeded);
}

#[test]
fn what_is_not_ordered_any_more_is_removed_once_no_route_leads_to_it() {
    let mut play = Play::new();
    let first = play.give(ORDER);
    play.look(first);
    play.play(&[]);
    let front = ORDER.find("front:").expect("it is there");
    let second = play.give(&ORDER[..front]);
    play.look(second);
    while play.at_work() != ["order-service 3/8"] {
        assert!(play.deployed.routes.iter().any(|route| route.service == word("8")), "the route goes first");
        let job = *play.running.keys().next().expect("a job");
        play.end(job, Outcome::Succeeded);
    }
    assert!(play.deployed.routes.iter().all(|route| route.service != word("8")));
    play.play(&[]);
    assert_eq!(play.state(second), State::Succeeded);
    assert!(!play.deployed.services.contains_key(&word("8")));
    assert_eq!(play.deployed.domains, BTreeSet::from(["api.lab.example".to_owned()]));

    // By an order to remove, one by one and all.
    let third = play.give("action: remove\nenvironment_id: '3'\napi:\n  services:\n    - id: '7'\n");
    play.look(third);
    play.play(&[]);
    assert_eq!(play.state(third), State::Succeeded);
    assert_eq!(play.deployed.services.keys().map(ToString::to_string).collect::<Vec<_>>(), ["6"]);
    let last = play.give("action: remove\nenvironment_id: '3'\n");
    play.look(last);
    play.play(&[]);
    assert_eq!(play.state(last), State::Succeeded);
    let nothing = Deployed { proxy: play.deployed.proxy.clone(), ..Deployed::default() };
    assert_eq!(play.deployed, nothing);
}

#[test]
fn what_has_no_room_ends_the_order_before_anything_is_touched() {
    let mut play = Play::new();
    play.environment =
        registered(&ENVIRONMENT.replace("memory: 1000", "memory: 100").replace("memory: 600", "memory: 200"));
    let first = play.give(ORDER);
    let change = play.look(first);
    assert!(change.launches.is_empty());
    assert_eq!(play.state(first), State::Failed);
    let why = play.orders[&first].reason.clone().expect("a reason");
    assert!(
        why.contains("no host has room for service 7, which takes 128 MiB: one has the most left, 100 MiB"),
        "{why}"
    );
    assert_eq!(play.deployed, Deployed::default());
    play.environment.modes.clear();
    let second = play.give(ORDER);
    play.look(second);
    assert_eq!(play.orders[&second].reason.as_deref(), Some("environment 3 has no mode production any more"));
}

#[test]
fn a_job_that_does_not_say_what_it_should_has_not_succeeded() {
    for (runs, missing) in [(0, "which commit service 6 is at"), (1, "which port service 6 has")] {
        let mut play = Play::new();
        let first = play.give(ORDER);
        play.look(first);
        for _ in 0..runs {
            let job = *play.running.keys().next().expect("a job");
            play.end(job, Outcome::Succeeded);
        }
        let (job, _) = play.running.pop_first().expect("a job");
        play.ended.insert(job, Ended { outcome: Outcome::Succeeded, reason: None, outputs: Map::new() });
        play.look(first);
        assert_eq!(play.state(first), State::Failed);
        assert!(
            play.orders[&first].reason.as_deref().is_some_and(|why| why.contains(missing)),
            "{:?}",
            play.orders[&first].reason
        );
    }
}

#[test]
fn another_try_looks_at_what_the_environment_has_become() {
    let mut play = Play::new();
    let first = play.give(ORDER);
    play.look(first);
    play.play(&["3/6", "3/7", "3/8"]);
    assert_eq!(play.state(first), State::Incomplete);
    // The host on which all failed is replaced by the other one.
    play.environment = registered(
        &ENVIRONMENT
            .replace("      - {name: one, address: 10.0.0.1, user: deploy, memory: 1000}\n", "")
            .replace("proxy: {host: one}", "proxy: {host: two}"),
    );
    let order = play.orders.get_mut(&first).expect("it is there");
    command::retry(order, 1, &word("ada"), "").expect("it may be tried again");
    play.look(first);
    play.play(&[]);
    assert_eq!(play.state(first), State::Succeeded);
    assert!(
        play.deployed
            .services
            .values()
            .all(|placed| placed.running.as_ref().is_some_and(|runs| runs.host == word("two")))
    );
    assert_eq!(play.deployed.routes.len(), 3);
    assert_eq!(play.deployed.proxy, Some((word("two"), "two.lab.example".into(), 8080)));
}

#[test]
fn what_a_job_that_was_lost_may_have_done_is_done_again() {
    // A removal.
    let mut play = Play::new();
    let first = play.give(ORDER);
    play.look(first);
    play.play(&[]);
    let second = play.give("action: remove\nenvironment_id: '3'\nx:\n  services: [{id: '7'}]\n");
    play.look(second);
    play.play(&["3/7"]);
    assert_eq!(play.state(second), State::Incomplete);
    let third = play.give(ORDER);
    play.look(third);
    play.play(&[]);
    let deployed: Vec<_> = play.orders[&third].tasks[3].runs.iter().map(|run| run.service.clone()).collect();
    assert_eq!(deployed, [Some(word("7"))]);
    assert_eq!(play.orders[&third].tasks[2].runs.len(), 1, "with its variables");

    // The routes: the old ones are told again, although they are what is recorded.
    let changed = play.give(&ORDER.replace("path: /core", "path: /kernel"));
    play.look(changed);
    while !play.at_work().iter().any(|job| job.starts_with("order-routes")) {
        let job = *play.running.keys().next().expect("a job");
        play.end(job, Outcome::Succeeded);
    }
    let job = *play.running.keys().next().expect("a job");
    play.end(job, Outcome::Lost);
    assert_eq!(play.state(changed), State::Failed);
    let last = play.give(ORDER);
    play.look(last);
    play.play(&[]);
    assert_eq!((play.state(last), play.orders[&last].tasks[4].runs.len()), (State::Succeeded, 1));
    assert!(!play.deployed.routes_doubtful);

    // Variables.
    let other = play.give(&ORDER.replace("[database-password, api-key]", "[database-password]"));
    play.look(other);
    while !play.at_work().iter().any(|job| job.starts_with("order-variables")) {
        let job = *play.running.keys().next().expect("a job");
        play.end(job, Outcome::Succeeded);
    }
    let job = *play.running.keys().next().expect("a job");
    play.end(job, Outcome::Lost);
    let last = play.give(ORDER);
    play.look(last);
    play.play(&[]);
    assert_eq!((play.state(last), play.orders[&last].tasks[2].runs.len()), (State::Succeeded, 1));
}

#[test]
fn a_vault_that_cannot_be_read_ends_the_order_and_holds_nobody_up() {
    let mut play = Play::new();
    let first = play.give(ORDER);
    play.look(first);
    play.sealed = true;
    play.play(&[]);
    assert_eq!((play.state(first), play.holder), (State::Failed, None));
    assert!(
        play.orders[&first]
            .reason
            .as_deref()
            .is_some_and(|why| why.starts_with("task variables: a variable of the vault"))
    );
    // While services are deployed: what runs is waited for, and recorded.
    play.sealed = false;
    let second = play.give(ORDER);
    play.look(second);
    while !play.at_work().iter().any(|job| job.starts_with("order-service")) {
        let job = *play.running.keys().next().expect("a job");
        play.end(job, Outcome::Succeeded);
    }
    play.sealed = true;
    play.play(&[]);
    assert_eq!(
        play.deployed.services.values().filter(|placed| placed.running.is_some()).count(),
        3,
        "the last one has no variables"
    );
    assert_eq!(play.state(second), State::Succeeded);
}

#[test]
fn when_redis_came_back_older_nothing_more_is_begun_and_nothing_is_relied_on() {
    let mut play = Play::new();
    let first = play.give(ORDER);
    play.look(first);
    while !play.at_work().iter().any(|job| job.starts_with("order-service")) {
        let job = *play.running.keys().next().expect("a job");
        play.end(job, Outcome::Succeeded);
    }
    play.older = true;
    let jobs = play.running.len();
    assert!(play.look(first).launches.is_empty());
    // It is noticed once; the order remembers it.
    play.older = false;
    play.play(&[]);
    assert_eq!(jobs, 2);
    assert_eq!((play.state(first), play.holder), (State::Failed, None));
    assert!(play.orders[&first].tasks[3].runs.len() == 2 && play.deployed.routes_doubtful);
    let order = play.orders.get_mut(&first).expect("it is there");
    command::retry(order, 1, &word("ada"), "").expect("it may be tried again");
    play.look(first);
    play.play(&[]);
    assert_eq!(play.state(first), State::Succeeded);
    let again = play.orders[&first].tasks[3].runs.iter().filter(|run| run.attempt == 2).count();
    assert_eq!(again, 3, "all are compared on their hosts");
}
