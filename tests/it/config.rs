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
        [("announce-apps", "announce-apps".to_owned()), ("app-deploy", "app-deploy {inventory} {job_id}".to_owned())]
    );
}

#[test]
fn every_commented_key_of_the_default_file_is_known() {
    let values = [
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
            ("LOCKSTEP_AUTH_OPERATORS", "ann:0123456789abcdef0,bob:0123456789abcdef1"),
            ("LOCKSTEP_REDIS_PASSWORD", "p@ss:word"),
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
        ("", ("LOCKSTEP_X", "1"), "LOCKSTEP_X is not known"),
        ("", ("LOCKSTEP_JOB_RUN_TIMOUT", "1h"), "did you mean LOCKSTEP_JOB_RUN_TIMEOUT?"),
        ("[job]\nrun_timout = \"1h\"", PEPPER, "job.run_timout is not a key; did you mean job.run_timeout?"),
        ("listen = \"here\"", PEPPER, "lockstep.toml (listen): \"here\" is not an address and a port"),
        ("instance = ", PEPPER, "lockstep.toml: "),
        ("instance = \"../x\"", PEPPER, "instance"),
        ("public_url = \"http://x\"", PEPPER, "https://host[:port]"),
        ("public_url = \"https://x/path\"", PEPPER, "without a path"),
        ("", ("LOCKSTEP_AUTH_PEPPER", "short"), "at least 16 bytes"),
        ("", ("LOCKSTEP_REDIS_URL", "http://x"), "redis:// or rediss://"),
        ("[engine]\nkind = \"podman\"", PEPPER, "must be docker"),
        ("[runner]\npull = \"sometimes\"", PEPPER, "always, missing or never"),
        ("[runner]\nmounts = [\"a:/b\"]", PEPPER, "both paths must be absolute"),
        ("[runner]\nmounts = [\"/var/run/docker.sock:/x\"]", PEPPER, "engine's socket"),
        ("[runner]\nmounts = [\"/a:/b:rw\"]", PEPPER, "options are ro and secret"),
        ("[runner]\nenv = [\"LOCKSTEP_URL=x\"]", PEPPER, "set by Lockstep itself"),
        ("[runner]\nregistry_user = \"u\"", PEPPER, "go together"),
        ("[runner.actions]\nx = \"run {inventry}\"", PEPPER, "known are {inventory}"),
        ("[runner.actions]\n\"-x\" = \"run\"", PEPPER, "the action's name"),
        ("[job]\nidle_timeout = \"2h\"", PEPPER, "would never come first"),
        ("[job]\noutput_limit = \"1KiB\"", PEPPER, "of at least 16384 bytes"),
        ("[job]\noutput_limit = \"1GiB\"", PEPPER, "at most 256MiB"),
        ("[auth]\noperators = [\"x\"]", PEPPER, "entry 1 must be name:token"),
        ("[auth]\noperators = [\"x:short\"]", PEPPER, "the token of x must have at least 16 bytes"),
        ("[auth]\noperators = [\"x:0123456789abcdefg\", \"x:0123456789abcdefh\"]", PEPPER, "names an operator twice"),
        ("[auth]\nfeed_token = \"0123456789abcdef\"", PEPPER, "auth.pepper is also used as a token"),
        ("[auth]\nfeed_networks = [\"10.0.0.0/33\"]", PEPPER, "is not a network"),
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
fn networks_hold_addresses() {
    let network = |text: &str| text.parse::<lockstep::config::IpNetwork>().expect("a network");
    let address = |text: &str| text.parse().expect("an address");
    assert!(network("127.0.0.0/8").contains(address("127.1.2.3")));
    assert!(network("127.0.0.0/8").contains(address("::ffff:127.0.0.1")));
    assert!(!network("127.0.0.0/8").contains(address("128.0.0.1")));
    assert!(!network("127.0.0.0/8").contains(address("::1")));
    assert!(network("0.0.0.0/0").contains(address("8.8.8.8")));
    assert!(network("192.0.2.1").contains(address("192.0.2.1")));
    assert!(!network("192.0.2.1").contains(address("192.0.2.2")));
    assert!(network("2001:db8::/32").contains(address("2001:db8::1")));
}
