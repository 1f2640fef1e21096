//! Plans: what differs, and where services go.

use super::*;
use crate::model::order::plan::{self, Plan};

fn planned(play: &Play, text: &str, commits: &[(&str, u8)]) -> Plan {
    let mode = word("production");
    let commits = commits.iter().map(|(id, n)| (word(id), commit(*n))).collect();
    let spec = file::read(text).expect("an order");
    plan::plan(&spec, (&mode, &play.environment.modes[&mode]), &play.deployed, &play.vault, &commits)
}

fn changes(plan: &Plan) -> Vec<String> {
    plan.services.iter().map(|(id, it)| format!("{id} {:?}", it.change)).collect()
}

#[test]
fn a_plan_says_what_would_change_and_changes_nothing() {
    let mut play = Play::new();
    let plan = planned(&play, ORDER, &[]);
    assert_eq!(changes(&plan), ["6 Create", "7 Create", "8 Create"]);
    assert_eq!(plan.generate, BTreeSet::from([word("api-key"), word("database-password")]));
    assert_eq!((plan.domains.0.len(), plan.routes.0.len(), plan.problems.len()), (2, 3, 0));
    assert_eq!(play.deployed, Deployed::default());

    let first = play.give(ORDER);
    play.look(first);
    play.play(&[]);
    let before = play.deployed.clone();
    let plan = planned(&play, ORDER, &[]);
    assert_eq!(changes(&plan), ["6 Keep", "7 Keep", "8 Keep"]);
    assert!(plan.generate.is_empty() && plan.domains == Default::default() && plan.routes == Default::default());
    let plan = planned(&play, ORDER, &[("6", 1), ("7", 70)]);
    assert_eq!(changes(&plan), ["6 Keep", "7 Update", "8 Keep"]);
    assert_eq!(plan.services[&word("7")].why, ["commit: 020202020202 to 464646464646"]);

    let changed = ORDER
        .replace("path: /core", "path: /kernel")
        .replace("type: static", "type: angular")
        .replace("[auth, discovery]", "[auth]");
    let plan = planned(&play, &changed, &[]);
    // Without a discovery service, nobody is told where it is.
    assert_eq!(changes(&plan), ["6 Update", "7 Update", "8 Update"]);
    assert_eq!(plan.services[&word("7")].why, ["DISCOVERY_URL in its environment"]);
    assert_eq!(plan.services[&word("8")].why[0], "type: static to angular");
    assert_eq!(plan.routes.0, BTreeSet::from([("api.lab.example".into(), "/kernel".into(), word("6"))]));
    assert_eq!(plan.routes.1, BTreeSet::from([("api.lab.example".into(), "/core".into(), word("6"))]));

    // What serves files alone is told nothing.
    let production = play.environment.modes.get_mut(&word("production")).expect("a mode");
    production.variables.insert("LOG_LEVEL".into(), "debug".into());
    assert_eq!(changes(&planned(&play, ORDER, &[])), ["6 Update", "7 Update", "8 Keep"]);

    let production = play.environment.modes.get_mut(&word("production")).expect("a mode");
    production.variables.insert("LOG_LEVEL".into(), "info".into());
    let port = std::mem::replace(&mut production.proxy.port, 8081);
    let plan = planned(&play, ORDER, &[]);
    assert_eq!((plan.domains.0.len(), plan.routes.0.len()), (2, 3), "another proxy is told all of it");
    play.environment.modes.get_mut(&word("production")).expect("a mode").proxy.port = port;

    let front = ORDER.find("front:").expect("it is there");
    let plan = planned(&play, &ORDER[..front], &[]);
    assert_eq!(changes(&plan), ["6 Keep", "7 Keep", "8 Remove"]);
    assert_eq!(plan.domains.1, BTreeSet::from(["www.lab.example".to_owned()]));
    let plan = planned(&play, "action: remove\nenvironment_id: '3'\nx:\n  services: [{id: '8'}, {id: nothing}]\n", &[]);
    assert_eq!(changes(&plan), ["8 Remove"]);
    assert_eq!(plan.problems, ["service nothing is not deployed, so it cannot be removed"]);
    assert_eq!(play.deployed, before);
}

#[test]
fn a_service_stays_where_it_is_and_the_largest_is_placed_first() {
    let mut play = Play::new();
    let large = ORDER.replace("      type: static", "      type: static\n      memory: 590");
    let plan = planned(&play, &large, &[]);
    assert_eq!(plan.services[&word("8")].host, Some(word("one")), "the most room is there");
    assert_eq!(plan.services[&word("6")].host, Some(word("two")));
    let first = play.give(ORDER);
    play.look(first);
    play.play(&[]);
    // All are on the first host; a fourth that has no room there goes to the other, and nobody moves.
    let more = format!(
        "{ORDER}    - id: '9'\n      path: /more\n      repository: {{url: 'https://git.example/more.git'}}\n      type: node\n      memory: 600\n"
    );
    let fits = planned(&play, &more.replace("memory: 600", "memory: 610"), &[]);
    assert_eq!(fits.services[&word("9")].host, Some(word("one")));
    let plan = planned(&play, &more.replace("memory: 600", "memory: 700"), &[]);
    assert_eq!(plan.problems.len(), 1);
    assert_eq!(changes(&planned(&play, &more, &[]))[..3], ["6 Keep", "7 Keep", "8 Keep"]);
}

#[test]
fn what_a_registration_drops_is_named() {
    let mut play = Play::new();
    let first = play.give(&ORDER.replace("type: python", "type: python\n      memory: 500"));
    play.look(first);
    play.play(&[]);
    let deployed = BTreeMap::from([(word("production"), play.deployed.clone())]);
    let left = |from: &str, to: &str| play.environment.left_by(&registered(&ENVIRONMENT.replace(from, to)), &deployed);
    assert!(left("LOG_LEVEL: info", "LOG_LEVEL: debug").is_empty());
    let on = |host: &str| {
        let all = play.deployed.services.iter().filter(|(_, placed)| placed.host == word(host));
        all.map(|(id, _)| id.to_string()).collect::<Vec<_>>()
    };
    let (one, two) = (on("one"), on("two"));
    assert!(!one.is_empty() && !two.is_empty(), "{one:?} {two:?}");
    let of = |ids: &[String], at: &str| -> Vec<String> {
        ids.iter().map(|id| format!("production: service {id} on {at}")).collect()
    };
    assert_eq!(left("two.lab.example", "three.lab.example"), of(&two, "two (two.lab.example)"));
    assert_eq!(left("      - {name: two, address: two.lab.example, user: deploy, memory: 600}\n", "").len(), two.len());
    let user = "two.lab.example, user: deploy";
    assert_eq!(left(user, "two.lab.example, user: www").len(), two.len());
    // Changed twice before an order: what is left is where the services run, and back there nothing is.
    let moved = registered(&ENVIRONMENT.replace("two.lab.example", "three.lab.example"));
    let again = registered(&ENVIRONMENT.replace("two.lab.example", "four.lab.example"));
    assert_eq!(moved.left_by(&again, &deployed), of(&two, "two (two.lab.example)"));
    assert!(moved.left_by(&play.environment, &deployed).is_empty());
    // One whose first deployment did not succeed has left a port and its secrets.
    let mut failed = deployed.clone();
    for placed in failed.values_mut().flat_map(|deployed| deployed.services.values_mut()) {
        placed.running = None;
    }
    let gone = registered(&ENVIRONMENT.replace("two.lab.example", "three.lab.example"));
    assert_eq!(play.environment.left_by(&gone, &failed), of(&two, "two (two.lab.example)"));
    let proxy = "production: the proxy on one (10.0.0.1), port 8080".to_owned();
    assert_eq!(left("{host: one}", "{host: one, port: 80}"), std::slice::from_ref(&proxy));
    let all = left("  production:", "  staging:");
    assert_eq!(all.len(), 4);
    assert!(all.contains(&proxy) && of(&one, "one (10.0.0.1)").iter().all(|it| all.contains(it)), "{all:?}");
}
