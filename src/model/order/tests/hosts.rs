//! What moves between hosts, and what hosts and the proxy have lost.

use super::*;

#[test]
fn a_service_that_moves_runs_on_both_hosts_until_the_routes_have_changed() {
    let mut play = Play::new();
    let first = play.give(ORDER);
    play.look(first);
    play.play(&[]);
    play.environment = registered(&ENVIRONMENT.replace("memory: 1000", "memory: 300"));
    let second = play.give(ORDER);
    play.look(second);
    let moved = |play: &Play| play.deployed.services.values().filter(|placed| placed.host == word("two")).count();
    assert_eq!(moved(&play), 1);
    while !play.at_work().iter().any(|job| job.starts_with("order-routes")) {
        let job = *play.running.keys().next().expect("a job");
        play.end(job, Outcome::Succeeded);
    }
    let left: Vec<_> = play.deployed.services.values().flat_map(|placed| placed.left_on.clone()).collect();
    assert_eq!(left, [word("one")]);
    let job = *play.running.keys().next().expect("a job");
    let removal = play.end(job, Outcome::Succeeded);
    assert_eq!(removal.launches[0].vars["lockstep_order"]["service"]["operation"], "remove");
    assert_eq!(removal.launches[0].vars["lockstep_order"]["hosts"][0]["name"], "one");
    play.play(&[]);
    assert_eq!(play.state(second), State::Succeeded);
    assert!(play.deployed.services.values().all(|placed| placed.left_on.is_empty()));

    // A host that is not registered any more cannot be reached: what lies there is left, and that is told.
    play.environment = registered(
        &ENVIRONMENT.replace("      - {name: two, address: two.lab.example, user: deploy, memory: 600}\n", ""),
    );
    let third = play.give(ORDER);
    play.look(third);
    play.play(&[]);
    assert_eq!(play.state(third), State::Succeeded);
    assert!(play.told.contains(&"left".to_owned()), "{:?}", play.told);
    assert!(play.deployed.services.values().all(|placed| placed.host == word("one") && placed.left_on.is_empty()));
}

#[test]
fn a_proxy_that_has_lost_its_configuration_is_told_its_routes_again() {
    let mut play = Play::new();
    let first = play.give(ORDER);
    play.look(first);
    play.play(&[]);
    play.proxy_anew = true;
    let second = play.give(ORDER);
    play.look(second);
    play.play(&[]);
    let runs = |task: usize| play.orders[&second].tasks[task].runs.len();
    assert_eq!((play.state(second), runs(3), runs(4)), (State::Succeeded, 0, 1));
}

#[test]
fn what_is_gone_from_a_host_is_made_again_where_it_was() {
    let mut play = Play::new();
    let first = play.give(ORDER);
    play.look(first);
    play.play(&[]);
    let before = play.deployed.clone();
    // A machine that was made anew under its address has nothing of what is recorded.
    let second = play.give(ORDER);
    play.look(second);
    let (_, asked) = play.running.values().next().cloned().expect("the first task");
    let recorded = &asked.vars["lockstep_order"]["recorded"];
    let port = before.services[&word("6")].port;
    let of_6 =
        json!({"service": "6", "host": "one", "port": port, "variables": ["DATABASE_PASSWORD"], "commit": commit(1)});
    assert_eq!((recorded.as_array().map(Vec::len), &recorded[0]), (Some(3), &of_6));
    play.lost = BTreeMap::from([("6".to_owned(), vec!["port", "variables", "release"]), ("none".to_owned(), vec![])]);
    play.play(&[]);
    let runs = |number: u64| play.orders[&number].tasks.iter().map(|task| task.runs.len()).collect::<Vec<_>>();
    assert_eq!((play.state(second), runs(second)), (State::Succeeded, vec![1, 1, 1, 1, 0]));
    assert_eq!(play.deployed, before, "at the same port, so the routes lead there still");

    // Without its variables nothing is deployed, and another try writes them.
    play.lost.clear();
    play.commits.insert("6".into(), commit(60));
    let third = play.give(ORDER);
    play.look(third);
    let job = |play: &Play| *play.running.keys().next().expect("a job");
    play.end(job(&play), Outcome::Succeeded);
    play.lost = BTreeMap::from([("6".to_owned(), vec!["variables"])]);
    play.end(job(&play), Outcome::Failed);
    assert_eq!(play.state(third), State::Incomplete);
    play.lost.clear();
    let order = play.orders.get_mut(&third).expect("it is there");
    command::retry(order, third, &word("ada"), "").expect("it may be tried again");
    play.look(third);
    assert_eq!(play.at_work(), ["order-variables 3/environment"]);
    play.play(&[]);
    assert_eq!(play.state(third), State::Succeeded);
}

#[test]
fn a_service_whose_move_fails_serves_where_it_was_until_it_has_moved() {
    let mut play = Play::new();
    let first = play.give(ORDER);
    play.look(first);
    play.play(&[]);
    play.environment = registered(&ENVIRONMENT.replace("memory: 1000", "memory: 300"));
    let routes = play.deployed.routes.clone();
    let second = play.give(ORDER);
    play.look(second);
    let mover = play.deployed.services.iter().find(|(_, placed)| placed.moves()).map(|(id, _)| id.clone());
    let mover = mover.expect("one moves");
    play.play(&[&format!("3/{mover}")]);
    assert_eq!(play.state(second), State::Incomplete);
    let placed = &play.deployed.services[&mover];
    assert_eq!(placed.running.as_ref().map(|runs| &runs.host), Some(&word("one")));
    assert_eq!(placed.left_on, [word("one")].into());
    let removed = |play: &Play| play.orders[&second].tasks[4].runs.iter().filter(|run| run.service.is_some()).count();
    assert_eq!(removed(&play), 0, "nothing is removed where it serves");
    let leads = |routes: &BTreeSet<crate::model::order::Route>| {
        routes.iter().filter(|route| route.service == mover).cloned().collect::<Vec<_>>()
    };
    assert_eq!(leads(&play.deployed.routes), leads(&routes));

    let order = play.orders.get_mut(&second).expect("it is there");
    command::retry(order, second, &word("ada"), "").expect("it may be tried again");
    play.look(second);
    play.play(&[]);
    assert_eq!((play.state(second), removed(&play)), (State::Succeeded, 1));
    assert_eq!(play.deployed.services[&mover].left_on, BTreeSet::new());
}

#[test]
fn those_that_are_told_of_a_service_are_told_where_it_is_also_if_its_move_fails() {
    let mut play = Play::new();
    let order = ORDER.replace("type: static", "type: node");
    let first = play.give(&order);
    play.look(first);
    play.play(&[]);
    let told = |play: &Play, id: &str| {
        play.deployed.services[&word(id)].running.as_ref().expect("it runs").environment["AUTH_URL"].clone()
    };
    let home = told(&play, "7");
    assert!(home.starts_with("http://10.0.0.1:"), "{home}");
    // All of them go to another machine; the one that the others call goes first.
    play.environment = registered(&ENVIRONMENT.replace("memory: 1000", "memory: 16"));
    let second = play.give(&order);
    play.look(second);
    while !play.at_work().iter().any(|job| job.starts_with("order-service")) {
        let job = *play.running.keys().next().expect("a job");
        play.end(job, Outcome::Succeeded);
    }
    assert_eq!(play.at_work(), ["order-service 3/6"]);
    play.play(&["3/6"]);
    assert_eq!(play.state(second), State::Incomplete);
    assert_eq!([told(&play, "7"), told(&play, "8")], [home.clone(), home], "it is still where it was");
    let order = play.orders.get_mut(&second).expect("it is there");
    command::retry(order, second, &word("ada"), "").expect("it may be tried again");
    play.look(second);
    play.play(&[]);
    assert_eq!(play.state(second), State::Succeeded);
    assert!(told(&play, "7").starts_with("http://two.lab.example:") && told(&play, "8") == told(&play, "6"));
}

#[test]
fn a_proxy_that_moves_is_told_all_of_it() {
    let mut play = Play::new();
    let first = play.give(ORDER);
    play.look(first);
    play.play(&[]);
    play.environment = registered(&ENVIRONMENT.replace("proxy: {host: one}", "proxy: {host: two, port: 8081}"));
    let second = play.give(ORDER);
    play.look(second);
    play.play(&[]);
    assert_eq!(play.state(second), State::Succeeded);
    assert_eq!(play.orders[&second].tasks[4].runs.len(), 1, "it is told the routes as well");
    assert_eq!(play.deployed.proxy, Some((word("two"), "two.lab.example".into(), 8081)));
}

#[test]
fn a_machine_that_takes_the_name_of_another_is_given_all_of_it() {
    let mut play = Play::new();
    let first = play.give(ORDER);
    play.look(first);
    play.play(&[]);
    play.environment = registered(&ENVIRONMENT.replace("10.0.0.1", "10.0.0.9"));
    let second = play.give(ORDER);
    play.look(second);
    play.play(&[]);
    let order = &play.orders[&second];
    assert_eq!(order.tasks.iter().map(|task| task.runs.len()).collect::<Vec<_>>(), [1, 1, 1, 3, 1]);
    assert!(play.deployed.routes.iter().all(|route| route.address == "10.0.0.9"));
}
