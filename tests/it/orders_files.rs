//! The files of orders and environments: the schemas against what is taken.

use jsonschema::Validator;
use lockstep::model::mistakes::Mistakes;
use lockstep::model::order::{environment, file};
use serde_json::Value;

const ORDER: &str = r#"
action: update
environment_id: "3"
api:
  domains: [manager-api.lab.example, API.lab.example]
  services:
    - id: "6"
      path: /core
      repository: {url: 'https://git.example/auth.git', revision: release/1.2}
      roles: [auth, discovery, upload]
      variables: [database-password]
      type: node
    - id: "7"
      path: /
      repository: {url: 'ssh://git@git.example:22/manager.git'}
      type: python
      memory: 256
      health: /health/live
front:
  domains: [manager.lab.example]
  services:
    - {id: "8", path: /, repository: {url: 'file:///srv/front.git'}, type: angular, variables: []}
"#;

const REMOVE: &str = r#"
action: remove
environment_id: "3"
api:
  services: [{id: "6"}, {id: "7", path: /, type: node}]
"#;

const ENVIRONMENT: &str = r#"
environment: "3"
modes:
  production:
    hosts:
      - name: host-a
        address: 10.1.2.3
        user: deploy
        host_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample root@host-a
        key: id_ed25519
        memory: 2048
      - {name: host-b, address: host-b.lab.example, port: 2222, user: deploy, memory: 512}
    proxy: {host: host-a, port: 8080}
    ports: [20000, 20999]
    variables: {LOG_LEVEL: info}
  staging:
    hosts: [{name: s, address: s.lab.example, user: deploy, memory: 16}]
    proxy: {host: s}
"#;

/// A kind of file: its schema, and its reader.
struct Kind {
    schema: Validator,
    read: fn(&str) -> Result<(), Mistakes>,
}

impl Kind {
    fn new(schema: &str, read: fn(&str) -> Result<(), Mistakes>) -> Self {
        let schema = jsonschema::validator_for(&serde_json::from_str(schema).expect("JSON")).expect("a schema");
        Self { schema, read }
    }

    fn order() -> Self {
        Self::new(include_str!("../../docs/order.schema.json"), |text| file::read(text).map(drop))
    }

    fn environment() -> Self {
        Self::new(include_str!("../../docs/environment.schema.json"), |text| environment::read(text).map(drop))
    }

    fn valid(&self, file: &str) -> bool {
        self.schema.is_valid(&serde_saphyr::from_str::<Value>(file).expect("YAML"))
    }

    /// Both take it.
    fn good(&self, file: &str) {
        (self.read)(file).unwrap_or_else(|mistakes| panic!("{mistakes}\n{file}"));
        let value: Value = serde_saphyr::from_str(file).expect("YAML");
        let errors: Vec<String> = self.schema.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}\n{file}");
    }

    /// Neither takes it once this is replaced by that.
    fn bad(&self, file: &str, changes: &[(&str, &str)]) {
        for (from, to) in changes {
            let changed = file.replacen(from, to, 1);
            assert_ne!(changed, file, "{from}");
            assert!((self.read)(&changed).is_err(), "the reader takes: {to}");
            assert!(!self.valid(&changed), "the schema takes: {to}");
        }
    }

    /// Both take it, once this is replaced by that.
    fn also(&self, file: &str, changes: &[(&str, &str)]) {
        for (from, to) in changes {
            let changed = file.replacen(from, to, 1);
            assert_ne!(changed, file, "{from}");
            self.good(&changed);
        }
    }
}

#[test]
fn an_order_is_refused_by_its_schema_where_it_is_refused() {
    let kind = Kind::order();
    kind.good(ORDER);
    kind.good(REMOVE);
    kind.good("action: remove\nenvironment_id: \"3\"\n");
    // The file of which it all began.
    kind.good(
        "action: \"update\"\nenvironment_id: \"3\"\napi:\n    domains:\n      - manager-api.lab.makeitsaas.com\n    services:\n      - id: \"6\"\n        path: /core\n        repository: \n          url: 'https://github.com/makeitsaas/makeitsaas-auth-instance'\n        roles: [auth, discovery, upload]\n        variables: [] # vault id list \n        type: node\n",
    );
    kind.bad("action: update\nenvironment_id: \"3\"\n", &[("update", "update ")]);
    kind.bad(
        ORDER,
        &[
            ("action: update", "action: create"),
            ("action: update\n", ""),
            ("environment_id: \"3\"\n", ""),
            ("environment_id: \"3\"", "environment_id: a/b"),
            ("api:", "a b:"),
            ("api:\n  domains: [manager-api.lab.example, API.lab.example]", "api:\n  domains: []"),
            ("  domains: [manager.lab.example]\n", ""),
            ("manager.lab.example", "manager_.lab.example"),
            ("manager.lab.example", "-manager.lab.example"),
            ("manager.lab.example", "manager..example"),
            ("manager.lab.example", "'manager.lab.example:8080'"),
            ("[manager.lab.example]", "[manager.lab.example, manager.lab.example]"),
            ("front:\n  domains", "front:\n  colour: red\n  domains"),
            ("    - {id: \"8\"", "    - {name: \"8\""),
            ("id: \"8\"", "id: ../8"),
            ("id: \"8\"", "id: environment"),
            ("id: \"8\", path: /,", "id: \"8\","),
            ("type: angular, ", ""),
            ("type: angular", "type: php"),
            ("repository: {url: 'file:///srv/front.git'}, ", ""),
            ("url: 'file:///srv/front.git'", "revision: main"),
            ("file:///srv/front.git", "/srv/front.git"),
            ("file:///srv/front.git", "ext::sh -c id"),
            ("https://git.example/auth.git", "https://-git.example/auth.git"),
            ("https://git.example/auth.git", "https://token@git.example/auth.git"),
            ("ssh://git@git.example:22", "ssh://git:secret@git.example:22"),
            ("https://git.example/auth.git", "https://git.example/a b"),
            ("release/1.2", "--upload-pack=id"),
            ("release/1.2", "a..b"),
            ("release/1.2", "main/"),
            ("revision: release/1.2", "branch: main"),
            ("path: /core", "path: core"),
            ("path: /core", "path: /core/../x"),
            ("path: /core", "path: /co re"),
            ("path: /core", "path: /a//b"),
            ("roles: [auth, discovery, upload]", "roles: [auth, auth]"),
            ("roles: [auth, discovery, upload]", "roles: [a b]"),
            ("roles: [auth, discovery, upload]", "roles: auth"),
            ("variables: [database-password]", "variables: [a, a]"),
            ("variables: [database-password]", "variables: [1password]"),
            ("variables: [database-password]", "variables: [port]"),
            ("variables: [database-password]", "variables: [Service-Commit]"),
            ("variables: [database-password]", "variables: [optind]"),
            ("variables: [database-password]", "variables: [Lockstep.unit]"),
            ("memory: 256", "memory: 0"),
            ("memory: 256", "memory: 16777217"),
            ("memory: 256", "memory: a lot"),
            ("health: /health/live", "health: live"),
            ("health: /health/live", "port: 80"),
        ],
    );
    kind.bad(REMOVE, &[("{id: \"6\"}", "{path: /}"), ("[{id: \"6\"}, {id: \"7\", path: /, type: node}]", "[]")]);
    kind.also(
        ORDER,
        &[
            ("path: /core", "path: /core/"),
            ("path: /core", "path: /core/v1.2/~x"),
            ("revision: release/1.2", "revision: 0123456789abcdef0123456789abcdef01234567"),
            ("https://git.example/auth.git", "git://git.example/a@b"),
            ("variables: [database-password]", "variables: [port-2, a.b]"),
            ("memory: 256", "memory: 16777216"),
        ],
    );
}

#[test]
fn an_environment_is_refused_by_its_schema_where_it_is_refused() {
    let kind = Kind::environment();
    kind.good(ENVIRONMENT);
    kind.bad(
        ENVIRONMENT,
        &[
            ("environment: \"3\"", "environment: a/b"),
            ("environment: \"3\"", "colour: red"),
            ("  production:", "  a b:"),
            ("  staging:\n", "  staging:\n    colour: red\n"),
            ("    proxy: {host: s}\n", ""),
            ("    hosts: [{name: s, address: s.lab.example, user: deploy, memory: 16}]\n", ""),
            ("[{name: s, address: s.lab.example, user: deploy, memory: 16}]", "[]"),
            ("name: s, ", ""),
            ("name: s, ", "name: s s, "),
            ("address: s.lab.example, ", ""),
            ("s.lab.example", "s.lab.example:22"),
            ("s.lab.example", "'-oProxyCommand=id'"),
            ("s.lab.example", "'{{ lookup }}'"),
            ("s.lab.example", "S.lab.example"),
            ("s.lab.example", "'::1'"),
            ("s.lab.example", "'fd00::1'"),
            ("user: deploy, memory: 16}", "memory: 16}"),
            ("user: deploy, memory: 16}", "user: deploy}"),
            ("user: deploy, memory: 16}", "user: -x, memory: 16}"),
            ("memory: 16}", "memory: 15}"),
            ("memory: 16}", "memory: 16777217}"),
            ("port: 2222", "port: 0"),
            ("port: 2222", "port: 65536"),
            ("key: id_ed25519", "key: ../id_ed25519"),
            ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample root@host-a", "AAAAC3NzaC1lZDI1NTE5AAAAIExample"),
            ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample root@host-a", "ssh-ed25519 short"),
            ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample root@host-a", "ssh-dss AAAAC3NzaC1lZDI1NTE5AAAAIExample"),
            ("proxy: {host: s}", "proxy: {port: 80}"),
            ("proxy: {host: s}", "proxy: {host: s, port: 0}"),
            ("proxy: {host: s}", "proxy: {host: s, name: x}"),
            ("ports: [20000, 20999]", "ports: [80, 20999]"),
            ("ports: [20000, 20999]", "ports: [20000]"),
            ("ports: [20000, 20999]", "ports: [20000, 20001, 20002]"),
            ("ports: [20000, 20999]", "ports: [20000, 65536]"),
            ("LOG_LEVEL: info", "LOG-LEVEL: info"),
            ("LOG_LEVEL: info", "1LOG: info"),
            ("LOG_LEVEL: info", "PORT: \"80\""),
            ("LOG_LEVEL: info", "PWD: /"),
            ("LOG_LEVEL: info", "LOCKSTEP_UNIT: x"),
            ("LOG_LEVEL: info", "LOG_LEVEL: [a]"),
        ],
    );
    kind.bad("environment: \"3\"\nmodes: {a: 1}\n", &[("{a: 1}", "{}")]);
    kind.also(
        ENVIRONMENT,
        &[
            ("proxy: {host: s}", "proxy: {host: s, port: 80}"),
            ("LOG_LEVEL: info", "_x: ''"),
            ("s.lab.example", "192.0.2.7"),
            ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample root@host-a", "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIExample"),
        ],
    );
}

/// What no schema can say is said by the reader.
#[test]
fn what_a_schema_cannot_say_is_said_with_its_place() {
    for (from, to, part) in [
        ("id: \"8\"", "id: \"7\"", "there are two services of the id 7"),
        ("variables: [database-password]", "variables: [auth-url]", "says where the service with the role auth is"),
        ("path: /core", "path: /", "it can lead to one"),
    ] {
        let changed = ORDER.replacen(from, to, 1);
        let mistakes = file::read(&changed).expect_err(to);
        assert!(mistakes.to_string().contains(part), "{mistakes}");
    }
    for (from, to, part) in [
        ("proxy: {host: s}", "proxy: {host: t}", "t is none of the hosts"),
        ("ports: [20000, 20999]", "ports: [20999, 20000]", "the lower one first"),
        ("host: host-a, port: 8080", "host: host-a, port: 20500", "nor one of those that services may have"),
    ] {
        let changed = ENVIRONMENT.replacen(from, to, 1);
        let mistakes = environment::read(&changed).expect_err(to);
        assert!(mistakes.to_string().contains(part), "{mistakes}");
    }
}
