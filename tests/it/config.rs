//! Configuration: defaults, sources, and every error that a person could make.

use lockstep::config::{Config, DEFAULT, FinalStatus};

const PEPPER: (&str, &str) = ("LOCKSTEP_AUTH_PEPPER", "0123456789abcdef");

fn read(file: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::read(Some(("lockstep.toml", file)), environment, None).map_err(|error| error.to_string())
}

#[test]
fn the_default_file_is_the_default() {
    let nothing = read("", &[PEPPER]).expect("a configuration");
    let whole = read(DEFAULT, &[PEPPER]).expect("a configuration");
    assert_eq!(format!("{nothing:?}"), format!("{whole:?}"));
    assert_eq!(nothing.listen.to_string(), "0.0.0.0:8443");
    assert_eq!(nothing.job.output_limit, 64 << 20);
    assert_eq!(nothing.job.idle_timeout, None);
    assert_eq!(nothing.runner.millicpus, 2000);
    let actions: Vec<_> = nothing.runner.actions.iter().map(|(name, argv)| (name.as_str(), argv.join(" "))).collect();
    assert_eq!(
        actions,
        [
            ("announce-apps", "announce-apps".to_owned()),
            ("app-deploy", "app-deploy {inventory} {job_id}".to_owned()),
            ("order-domains", "order domains {inventory} {job_id}".to_owned()),
            ("order-resources", "order resources {inventory} {job_id}".to_owned()),
            ("order-routes", "order routes {inventory} {job_id}".to_owned()),
            ("order-service", "order service {inventory} {job_id}".to_owned()),
            ("order-variables", "order variables {inventory} {job_id}".to_owned()),
        ]
    );
}

#[test]
fn every_commented_key_of_the_default_file_is_known() {
    let values = [
        ("socket", "/run/handover/dispatcher.sock"),
        ("password", "x"),
        ("host", "unix:///var/run/docker.sock"),
        ("registry_user", "u"),
        ("registry_password", "p"),
        ("network", "n"),
        ("pepper", "0123456789abcdef"),
        ("feed_token", "0123456789abcdefg"),
    ];
    let mut shown = 0;
    let uncommented: String = DEFAULT
        .lines()
        .map(|line| match values.iter().find(|(name, _)| line.starts_with(&format!("# {name} = "))) {
            Some((name, value)) => {
                shown += 1;
                format!("{name} = \"{value}\"\n")
            }
            None => format!("{line}\n"),
        })
        .collect();
    assert_eq!(shown, values.len());
    read(&uncommented, &[]).expect("a configuration");
}

#[test]
fn the_environment_goes_before_the_file() {
    let file = "instance = \"from-file\"\n[job]\nrun_timeout = \"2h\"\n[compat]\nfinal_status = \"outcome\"\n";
    let config = read(
        file,
        &[
            PEPPER,
            ("LOCKSTEP_INSTANCE", "from-env"),
            ("LOCKSTEP_RUNNER_MOUNTS", "/a:/b:ro,/c:/d:ro:secret"),
            ("LOCKSTEP_RUNNER_ENV", "A=1,B=x=y"),
            ("LOCKSTEP_RUNNER_ACTIONS", "app-deploy=run {inventory};check=check it"),
            ("LOCKSTEP_FEED_AT_START", "false"),
            ("LOCKSTEP_AUTH_OPERATORS", "ann:0123456789abcdef0,bob:0123456789abcdef1"),
            ("LOCKSTEP_REDIS_PASSWORD", "p@ss:word"),
            ("LOCKSTEP_EGRESS_CA", "/etc/gitlab.crt"),
            ("LOCKSTEP_EGRESS_ALLOW", "127.0.0.0/8,::1"),
        ],
    )
    .expect("a configuration");
    assert_eq!(config.instance.as_str(), "from-env");
    assert_eq!(config.job.run_timeout.as_secs(), 7200);
    assert_eq!(config.final_status, FinalStatus::Outcome);
    assert_eq!(config.runner.mounts.len(), 2);
    assert!(config.runner.mounts[0].read_only && !config.runner.mounts[0].secret && config.runner.mounts[1].secret);
    assert_eq!(config.runner.env["B"], "x=y");
    assert_eq!(config.runner.actions.len(), 2);
    assert_eq!(config.auth.operators.len(), 2);
    assert_eq!(config.egress_ca.as_deref(), Some(std::path::Path::new("/etc/gitlab.crt")));
    assert_eq!(config.egress_allow.len(), 2);
    assert_eq!(config.redis_url.expose(), "redis://:p%40ss%3Aword@127.0.0.1:6379");
}

#[test]
fn secrets_come_from_files_and_are_shown_nowhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pepper");
    std::fs::write(&path, "a pepper from a file\n").expect("written");
    let path = path.display().to_string();
    let config = read("", &[("LOCKSTEP_AUTH_PEPPER_FILE", &path)]).expect("a configuration");
    assert_eq!(config.auth.pepper.expose(), "a pepper from a file");
    assert!(!format!("{config:?}").contains("a pepper from a file"));
    let error = read("", &[PEPPER, ("LOCKSTEP_AUTH_PEPPER_FILE", &path)]).expect_err("both are given");
    assert!(error.contains("LOCKSTEP_AUTH_PEPPER_FILE") && !error.contains(PEPPER.1), "{error}");
    let error = read("", &[("LOCKSTEP_AUTH_PEPPER_FILE", "/no/such/file")]).expect_err("no such file");
    assert!(error.contains("/no/such/file"), "{error}");
}

#[test]
fn what_is_wrong_is_named_with_what_would_be_valid() {
    for (file, environment, part) in [
        ("", ("LOCKSTEP_X", "1"), "LOCKSTEP_X is not known; lockstep serve --print-default-config shows all"),
        ("", ("LOCKSTEP_JOB_IDLE_TIMEOUT_FILE", "1h"), "LOCKSTEP_JOB_IDLE_TIMEOUT_FILE is not known"),
        ("", ("LOCKSTEP_JOB_RUN_TIMOUT", "1h"), "did you mean LOCKSTEP_JOB_RUN_TIMEOUT?"),
        (
            "[job]\nrun_timout = \"1h\"",
            PEPPER,
            "lockstep.toml:2: job.run_timout is not a key; did you mean job.run_timeout?",
        ),
        ("run_timeout = \"1h\"", PEPPER, "run_timeout is not a key; did you mean job.run_timeout?"),
        ("wholly_other = 1", PEPPER, "wholly_other is not a key; lockstep serve"),
        ("job = 1", PEPPER, "lockstep.toml:1: job is not a key"),
        ("\nlisten = \"here\"", PEPPER, "lockstep.toml:2 (listen): \"here\" is not an address and a port"),
        ("\ninstance = ", PEPPER, "lockstep.toml:2: "),
        ("instance = \"../x\"", PEPPER, "instance"),
        ("[handover]\nsocket = \"here\"", PEPPER, "absolute path"),
        ("public_url = \"http://x\"", PEPPER, "https://host[:port]"),
        ("public_url = \"https://x/path\"", PEPPER, "without a path"),
        ("public_url = \"https://x:99999\"", PEPPER, "https://host[:port]"),
        ("public_url = \"https://x y\"", PEPPER, "https://host[:port]"),
        ("public_url = \"https://::1:8443\"", PEPPER, "https://host[:port]"),
        ("", ("LOCKSTEP_AUTH_PEPPER", "short"), "at least 16 bytes"),
        ("", ("LOCKSTEP_REDIS_URL", "http://x"), "redis:// or rediss://"),
        ("", ("LOCKSTEP_REDIS_URL", "redis://host:99999"), "host[:port][/database]"),
        ("", ("LOCKSTEP_REDIS_PASSWORD", ""), "LOCKSTEP_REDIS_PASSWORD: is empty"),
        ("[engine]\nhost = \"ssh://somewhere\"", PEPPER, "unix:/// or tcp://"),
        ("[engine]\nkind = \"podman\"", PEPPER, "must be docker"),
        ("[runner]\npull = \"sometimes\"", PEPPER, "always, missing or never"),
        ("[runner]\nmounts = [\"a:/b\"]", PEPPER, "both paths must be absolute"),
        ("[runner]\nmounts = [\"/a/../b:/b\"]", PEPPER, "without .."),
        ("[runner]\nmounts = [\"/x/docker.sock:/x\"]", PEPPER, "engine's socket"),
        ("[runner]\nmounts = [\"/var/run:/x\"]", PEPPER, "engine's socket (/var/run/docker.sock)"),
        ("[runner]\nmounts = [\"/:/host:ro\"]", PEPPER, "engine's socket"),
        (
            "[engine]\nhost = \"unix:///x/y.sock\"\n[runner]\nmounts = [\"/x:/z\"]",
            PEPPER,
            "engine's socket (/x/y.sock)",
        ),
        ("[runner]\nmounts = [\"/a:/run/lockstep/token\"]", PEPPER, "would hide /run/lockstep"),
        ("[runner]\nmounts = [\"/a:/run\"]", PEPPER, "would hide /run/lockstep"),
        ("[runner]\nmounts = [\"/a:/b\", \"/c:/b\"]", PEPPER, "/b is the target of two mounts"),
        ("[runner]\nimage = \"\"", PEPPER, "must be an image"),
        ("[runner]\nmemory = \"1MiB\"", PEPPER, "of at least 16777216 bytes"),
        ("[runner]\ncpus = 0", PEPPER, "CPUs from 0.01"),
        ("[runner]\npids = 1", PEPPER, "from 16 to"),
        ("[runner]\nmounts = [\"/a:/b:rw\"]", PEPPER, "options are ro and secret"),
        ("[runner]\nenv = [\"LOCKSTEP_URL=x\"]", PEPPER, "set by Lockstep itself"),
        ("[runner]\nenv = [\"A=1\", \"A=2\"]", PEPPER, "A is given twice"),
        ("[runner]\nenv = [\"1A=hidden\"]", PEPPER, "entry 1 must be NAME=value"),
        ("[runner]\nregistry_user = \"u\"", PEPPER, "go together"),
        ("[runner.actions]\nx = \"run {inventry}\"", PEPPER, "known are {inventory}"),
        ("[runner.actions]\n\"-x\" = \"run\"", PEPPER, "the action's name"),
        ("[runner.actions]\n", ("LOCKSTEP_RUNNER_ACTIONS", "a=x;a=y"), "action a is given twice"),
        ("[runner.actions]\napp-deploy = \"run\"", PEPPER, "feed.at_start: the feed is the action announce-apps"),
        ("[job]\nidle_timeout = \"2h\"", PEPPER, "would never come first"),
        ("[job]\nidle_timeout = \"0s\"", PEPPER, "off is written"),
        ("[job]\nstart_timeout = \"0s\"", PEPPER, "longer than 0"),
        ("[job]\nstop_grace = \"2h\"", PEPPER, "at most 1h"),
        ("[job]\nretention = \"23h\"", PEPPER, "at least 1d"),
        ("[runner]\nkeep = \"8d\"", PEPPER, "must not be shorter than runner.keep"),
        ("[job]\noutput_limit = \"1KiB\"", PEPPER, "of at least 16384 bytes"),
        ("[job]\noutput_limit = \"1GiB\"", PEPPER, "at most 256MiB"),
        ("[auth]\noperators = [\"x\"]", PEPPER, "entry 1 must be name:token"),
        ("[auth]\noperators = [\"x:short\"]", PEPPER, "the token of x must have at least 16 bytes"),
        ("[auth]\noperators = [\"x:0123456789abcdefg\", \"x:0123456789abcdefh\"]", PEPPER, "names an operator twice"),
        ("[auth]\nfeed_token = \"0123456789abcdef\"", PEPPER, "auth.pepper is also used as a token"),
        ("[auth]\noperators = [\"x:0123456789abcdefg\", \"y:0123456789abcdefg\"]", PEPPER, "hold a token twice"),
        ("[auth]\nfeed_networks = [\"10.0.0.0/33\"]", PEPPER, "is not a network"),
        ("[auth]\nfeed_networks = [\"10.1.2.3/8\"]", PEPPER, "the network is 10.0.0.0/8"),
        ("[compat]\nfinal_status = \"done\"", PEPPER, "finished or outcome"),
        ("[feed]\nat_start = \"perhaps\"", PEPPER, "true or false"),
    ] {
        let error = read(file, &[environment]).expect_err(part);
        assert!(error.contains(part), "{part:?} should be in {error}");
    }
    let error = read("", &[]).expect_err("no pepper");
    assert!(error.contains("auth.pepper: is missing") && error.contains("openssl rand"), "{error}");
    let error = read("listen = 1\n[job]\nretention = \"x\"", &[]).expect_err("three errors");
    assert!(["listen", "job.retention", "auth.pepper"].iter().all(|key| error.contains(key)), "{error}");
}

#[test]
fn a_file_without_form_is_not_blamed_for_what_it_may_hold() {
    let error = read("[auth]\npepper = \"hush", &[("LOCKSTEP_LISTEN", "here")]).expect_err("it is wrong");
    assert!(error.contains("lockstep.toml:2: ") && error.contains("LOCKSTEP_LISTEN"), "{error}");
    assert!(!error.contains("hush") && !error.contains("is missing"), "{error}");
}

/// A secret that is given wrongly, in each way that is possible, is never quoted.
#[test]
fn no_error_shows_a_secret() {
    const HUSH: &str = "hush";
    for (name, value) in [
        ("LOCKSTEP_AUTH_PEPPER", "hush"),
        ("LOCKSTEP_AUTH_FEED_TOKEN", "hush"),
        ("LOCKSTEP_AUTH_OPERATORS", "ann:hush"),
        ("LOCKSTEP_AUTH_OPERATORS", "hush"),
        ("LOCKSTEP_REDIS_URL", "hush"),
        ("LOCKSTEP_REDIS_URL", "redis://:hush@host:port"),
        ("LOCKSTEP_REDIS_URL", "redis://:hush@:1:2/x"),
        ("LOCKSTEP_RUNNER_REGISTRY_PASSWORD", "hush"),
        ("LOCKSTEP_RUNNER_ENV", "hush"),
    ] {
        let error = read("", &[PEPPER, (name, value)]).or_else(|_| read("", &[(name, value)])).expect_err(name);
        assert!(error.contains(name) && !error.contains(HUSH), "{error}");
    }
    let both = [PEPPER, ("LOCKSTEP_REDIS_URL", "redis://:hush@host"), ("LOCKSTEP_REDIS_PASSWORD", "hush-hush")];
    let error = read("", &both).expect_err("two passwords");
    assert!(error.contains("give one of them") && !error.contains(HUSH), "{error}");
}

#[test]
fn the_engine_is_where_docker_host_says_unless_a_key_says_else() {
    let host = |file: &str, docker_host: Option<&str>| {
        let environment = [PEPPER].map(|(name, value)| (name.to_owned(), value.to_owned()));
        Config::read(Some(("lockstep.toml", file)), environment, docker_host.map(str::to_owned))
            .map(|config| config.engine_host)
            .map_err(|error| error.to_string())
    };
    let key = "[engine]\nhost = \"tcp://127.0.0.1:2375\"";
    assert_eq!(host("", None), Ok(None));
    assert_eq!(host("", Some("")), Ok(None));
    assert_eq!(host("", Some("unix:///x.sock")), Ok(Some("unix:///x.sock".to_owned())));
    assert_eq!(host(key, Some("unix:///x.sock")), Ok(Some("tcp://127.0.0.1:2375".to_owned())));
    assert_eq!(host(key, Some("ssh://x")), Ok(Some("tcp://127.0.0.1:2375".to_owned())));
    assert!(host("", Some("ssh://x")).is_err_and(|error| error.contains("DOCKER_HOST: must begin with")));
}

#[test]
fn public_urls() {
    for (given, taken) in [
        ("https://host.docker.internal:8443", "https://host.docker.internal:8443"),
        ("https://lockstep.example.org/", "https://lockstep.example.org"),
        ("https://192.0.2.1:443", "https://192.0.2.1:443"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
    ] {
        let config = read("", &[PEPPER, ("LOCKSTEP_PUBLIC_URL", given)]).expect(given);
        assert_eq!(config.public_url, taken);
    }
}
