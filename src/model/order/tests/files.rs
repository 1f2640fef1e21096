//! What is wrong with files.

use super::*;
use crate::model::mistakes::Mistakes;
use crate::model::order::{Action, Kind};

fn found<T: std::fmt::Debug>(read: Result<T, Mistakes>) -> Vec<(u64, String)> {
    read.expect_err("it is wrong").0.into_iter().map(|mistake| (mistake.line, mistake.what)).collect()
}

/// Line and text of the first mistake after a change of the order.
fn mistakes(from: &str, to: &str) -> Vec<(u64, String)> {
    assert!(ORDER.contains(from), "{from}");
    found(file::read(&ORDER.replacen(from, to, 1)))
}

#[test]
fn the_order_of_the_documents_is_read() {
    let text = r#"
action: "update"
environment_id: "3"
api:
    domains:
      - manager-api.lab.makeitsaas.com
    services:
      - id: "6"
        path: /core
        repository:
          url: 'https://github.com/makeitsaas/makeitsaas-auth-instance'
        roles: [auth, discovery, upload]
        variables: [] # vault id list
        type: node
      - id: "7"
        path: /
        repository:
          url: 'https://github.com/Duwab/makeitsaas-manager-api'
        type: node
front:
    domains:
      - manager-angular.lab.makeitsaas.com
    services:
      - id: "8"
        path: /
        repository:
          url: 'https://github.com/Duwab/makeitsaas-manager-front'
        type: angular
"#;
    let spec = file::read(text).expect("an order");
    assert_eq!((spec.action, spec.environment.as_str()), (Action::Update, "3"));
    assert_eq!(spec.services.keys().map(Word::as_str).collect::<Vec<_>>(), ["6", "7", "8"]);
    assert_eq!(spec.services[&word("6")].roles.len(), 3);
    assert_eq!((spec.services[&word("8")].kind, spec.services[&word("8")].group.as_str()), (Kind::Angular, "front"));
    let json: Value = json!({"action": "remove", "environment_id": "3"});
    let spec = file::read(&json.to_string()).expect("JSON is YAML");
    assert!(spec.action == Action::Remove && spec.removed.is_empty());
}

#[test]
fn every_mistake_in_an_order_is_named_by_line_and_key() {
    let mut missed = Vec::new();
    for (from, to, line, what) in [
        ("action: update", "action: destroy", 1, "unknown variant"),
        ("environment_id: '3'", "environment_id: 'a b'", 2, "environment_id has a character"),
        ("environment_id: '3'\n", "", 16, "missing field `environment_id`"),
        ("domains: [api.lab.example]", "domains: [api_lab]", 4, "domains: a domain is"),
        (
            "domains: [api.lab.example]",
            "domains: [api.lab.example, API.lab.example]",
            4,
            "domains names API.lab.example twice",
        ),
        ("domains: [api.lab.example]", "domains: []", 3, "api: domains must be at least one"),
        ("- id: '6'", "- id: '7'", 12, "id: there are two services of the id 7"),
        ("- id: '6'", "- id: environment", 6, "id: environment is the name of the lock"),
        ("path: /core", "path: /", 13, "path: api.lab.example/ leads to 6 and 7"),
        ("path: /core", "path: /core//x", 7, "path begins with '/'"),
        ("path: /core", "path: /../x", 7, "path begins with '/'"),
        ("path: /core", "path: core", 7, "path begins with '/'"),
        ("      path: /core\n", "", 6, "service 6 lacks path"),
        ("'https://git.example/auth.git'", "'../auth.git'", 8, "url must begin with"),
        ("'https://git.example/auth.git'", "'https://ada:secret@git.example/x'", 8, "url must hold no credential"),
        ("'https://git.example/auth.git'", "'https://-oProxyCommand=x'", 8, "url must be an address"),
        ("'https://git.example/auth.git'", "'https:///auth.git'", 8, "url must name a host"),
        ("'https://git.example/auth.git'", "'https://git.example:0/x'", 8, "url must name a host"),
        ("'https://git.example/auth.git'", "'ssh://git@git.example:x/y'", 8, "url must name a host"),
        ("'https://git.example/auth.git'", "'https://[::1/x'", 8, "url must name a host"),
        ("'https://git.example/auth.git'", "'https://git.exa,mple/x'", 8, "url must name a host"),
        ("revision: main", "revision: '--upload-pack=x'", 14, "revision must be the name of a branch"),
        ("revision: main", "revision: HEAD", 14, "revision must be the name of a branch"),
        ("revision: main", "revision: refs/heads/main", 14, "revision must be the name of a branch"),
        ("roles: [auth, discovery]", "roles: [auth, auth]", 9, "roles names auth twice"),
        ("variables: [database-password]", "variables: [port]", 10, "variables: port would be PORT"),
        (
            "variables: [database-password]",
            "variables: [lockstep-unit]",
            10,
            "variables: lockstep-unit would be LOCKSTEP_UNIT",
        ),
        ("variables: [database-password]", "variables: [a.b, a-b]", 10, "variables: a.b and a-b are both A_B"),
        ("variables: [database-password]", "variables: [discovery-url]", 10, "variables: DISCOVERY_URL says where"),
        ("roles: [auth, discovery]", "roles: [auth, Auth]", 9, "roles: auth and Auth are both told as AUTH_URL"),
        (
            "variables: [database-password]",
            "variables:\n        - zone\n        - path\n        - area",
            12,
            "variables: path would be PATH",
        ),
        ("type: node", "type: cobol", 11, "unknown variant"),
        ("roles: [auth, discovery]", "roles: auth", 9, "roles: must be a list"),
        ("roles: [auth, discovery]", "memory: big", 9, "memory: not a whole number"),
        ("type: node", "colour: red", 11, "unknown field"),
        ("type: node", "type: node\n      memory: 0", 12, "memory must be"),
    ] {
        let found = mistakes(from, to);
        let fits = |(at, text): &(u64, String)| *at == line && text.starts_with(what);
        if !found.iter().any(fits) {
            missed.push(format!("{to}: {found:?}"));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
    let two = format!(
        "{ORDER}    - id: '9'\n      path: /nine\n      repository: {{url: 'https://git.example/x'}}\n      type: node\n      roles: [auth]\n"
    );
    assert!(found(file::read(&two)).iter().any(|(_, what)| what.starts_with("roles: auth is the role of 6 and 9")));
    let same = ORDER.replace("www.lab.example", "api.lab.example");
    assert!(found(file::read(&same)).iter().any(|(_, what)| what.contains("leads to 7 and 8")));
    for text in [
        "",
        "- a",
        "action: update\nenvironment_id: '3'\n",
        "a: &a [*a]",
        "action: update\nenvironment_id: '3'\napi: 7\n",
    ] {
        assert!(!found(file::read(text)).is_empty(), "{text}");
    }
}

#[test]
fn what_is_too_much_is_named_where_it_begins_to_be() {
    let domains: String = (0..51).map(|at| format!("    - d{at}.example\n")).collect();
    let many = ORDER.replace("  domains: [api.lab.example]\n", &format!("  domains:\n{domains}"));
    assert_eq!(found(file::read(&many)), [(55, "domains must be at most 50".to_owned())]);
    let services: String = (0..199).map(|at| format!("- id: x{at}\n")).collect();
    let groups: String = (0..51).map(|at| format!("g{at}: {{services: [{{id: y{at}}}]}}\n")).collect();
    let head = "action: remove\nenvironment_id: '3'\n";
    let many = format!("{head}api:\n  services:\n{}", services.replace("- ", "  - "));
    assert!(file::read(&many).is_ok());
    let more = format!("{many}  - id: y\n  - id: z\n");
    assert_eq!(found(file::read(&more)), [(205, "services must be at most 200".to_owned())]);
    assert_eq!(found(file::read(&format!("{head}{groups}"))), [(53, "groups must be at most 50".to_owned())]);
}

#[test]
fn every_repository_that_git_could_ask_is_taken() {
    for url in [
        "https://git.example/x.git",
        "https://git.example:8443/x",
        "http://[::1]:3000/x",
        "http://[::1]/x",
        "ssh://git@git.example/x",
        "ssh://git@git.example:2222/~ada/x",
        "git://localhost/x",
        "file:///srv/x",
        "https://bücher.example/x",
    ] {
        let read = file::read(&ORDER.replace("https://git.example/auth.git", url));
        assert!(read.is_ok(), "{url}: {read:?}");
    }
}

#[test]
fn every_mistake_in_an_environment_is_named_by_line_and_key() {
    let environment = registered(ENVIRONMENT);
    let mode = &environment.modes[&word("production")];
    assert_eq!((mode.ports, mode.proxy.port, mode.hosts[1].port), ((20_000, 20_010), 8080, 22));
    let host = "      - {name: one, address: 10.0.0.1, user: deploy, memory: 1000}";
    for (from, to, line, what) in [
        ("environment: '3'", "environment: ''", 1, "environment is empty"),
        ("name: two", "name: one", 6, "name: there are two hosts"),
        ("two.lab.example", "'fd00::1'", 6, "address must be a host name"),
        ("address: two.lab.example", "address: 10.0.0.1, port: 2222", 6, "address: one has this address already"),
        ("LOG_LEVEL: info", "LOCKSTEP_UNIT: x", 9, "variables: \"LOCKSTEP_UNIT\" must be"),
        ("LOG_LEVEL: info", "PWD: x", 9, "variables: \"PWD\" must be"),
        ("two.lab.example", "10.0.0.1", 6, "address: one has this address already"),
        ("name: two", "name: localhost", 6, "name: localhost means something else"),
        ("10.0.0.1", "'{{ lookup(1) }}'", 5, "address must be"),
        ("10.0.0.1", "-oProxyCommand=x", 5, "address must be"),
        ("memory: 1000", "memory: 1", 5, "memory must be"),
        ("memory: 1000", "memory: 1000, port: 0", 5, "port must not be 0"),
        ("memory: 1000", "memory: 1000, host_key: rubbish", 5, "host_key must be"),
        ("memory: 1000", "memory: 1000, key: ../x", 5, "key must begin"),
        ("proxy: {host: one}", "proxy: {host: three}", 7, "proxy: host: three is none"),
        ("proxy: {host: one}", "proxy: {host: one, port: 20005}", 7, "port must not be 0, nor"),
        ("[20000, 20010]", "[20010, 20000]", 8, "ports must be two"),
        ("[20000, 20010]", "[80, 90]", 8, "ports must be two"),
        ("LOG_LEVEL", "LOG-LEVEL", 9, "variables: \"LOG-LEVEL\" must be"),
        ("LOG_LEVEL", "PORT", 9, "variables: \"PORT\" must be"),
        (host, "      - {name: one, adress: 10.0.0.1, user: deploy, memory: 1000}", 5, "unknown field"),
    ] {
        assert!(ENVIRONMENT.contains(from), "{from}");
        let found = found(environment::read(&ENVIRONMENT.replacen(from, to, 1)));
        assert!(found.iter().any(|(at, text)| *at == line && text.starts_with(what)), "{to}: {found:?}");
    }
    // Two modes on the same machines.
    let staging = &ENVIRONMENT[ENVIRONMENT.find("    hosts:").expect("it is there")..];
    let both = |proxy: &str, ports: &str| {
        let staging = staging.replace("{host: one}", proxy).replace("[20000, 20010]", ports);
        environment::read(&format!("{ENVIRONMENT}  staging:\n{staging}"))
    };
    let clash = |proxy, ports| found(both(proxy, ports));
    let already = "proxy: mode production has its proxy at this address and port already".to_owned();
    assert_eq!(clash("{host: one}", "[20000, 20010]"), [(14, already)]);
    let given = "proxy: port 20005 is one that services of mode production may have on this host".to_owned();
    assert_eq!(clash("{host: one, port: 20005}", "[30000, 30010]"), [(14, given)]);
    let theirs = "ports: 8080 is the port of mode production's proxy on 10.0.0.1".to_owned();
    assert_eq!(clash("{host: one, port: 90}", "[8000, 8100]"), [(15, theirs)]);
    for proxy in ["{host: one, port: 8081}", "{host: two}"] {
        assert_eq!(both(proxy, "[20000, 20010]").map(|read| read.modes.len()), Ok(2));
    }
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGfC root@host";
    let with = ENVIRONMENT.replacen("memory: 1000", &format!("memory: 1000, host_key: {key}"), 1);
    let mode = registered(&with).modes[&word("production")].clone();
    assert_eq!(mode.hosts[0].host_key.as_deref(), Some("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGfC"));
}

#[test]
fn an_order_has_one_name() {
    assert_eq!("3/7".parse::<OrderId>().expect("a name").to_string(), "3/7");
    for bad in ["", "3", "/7", "3/", "3/0", "3/07", "3/+7", "3/-1", "a b/1", "3/7/1", "3/x"] {
        assert!(bad.parse::<OrderId>().is_err(), "{bad}");
    }
}
