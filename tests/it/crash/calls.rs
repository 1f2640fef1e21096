//! Telling calls apart: scripts of Redis by their hashes, requests to the engine by method and path.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Scripts that change no job's state.
const BESIDE: [&str; 13] = [
    "apps",
    "failure",
    "freeze",
    "unfreeze",
    "progress",
    "issue",
    "revoke",
    "set_webhook",
    "remove_webhook",
    "replay",
    "deliver",
    "delivered",
    "set_pipeline",
];
/// The kind of a script whose hash is not among those of the product's scripts.
pub(super) const UNKNOWN: &str = "unknown script";

/// The product's scripts by their hashes: name and text. They are put together as the product does it, from its own list of parts.
pub(super) static SCRIPTS: LazyLock<BTreeMap<String, (String, String)>> = LazyLock::new(|| {
    let quoted = |text: &str| text.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let record = include_str!("../../../src/store/record.rs");
    let fields = record.split("const FIELDS").nth(1).and_then(|rest| rest.split("];").next()).expect("fields");
    let fields: Vec<_> = quoted(fields).iter().map(|field| format!("'{field}'")).collect();
    let list = include_str!("../../../src/store/scripts.rs").split("\nscripts! {").nth(1);
    let list = list.and_then(|rest| rest.split("\n}").next()).expect("a list of scripts");
    let made = list.lines().filter_map(|line| line.split_once(" = ")).map(|(name, parts)| {
        let mut text = format!("local FIELDS = {{ {} }}\n", fields.join(", "));
        for part in quoted(parts) {
            let path = format!("{}/src/store/scripts/{part}.lua", env!("CARGO_MANIFEST_DIR"));
            text.push_str(&std::fs::read_to_string(path).expect("a part of a script"));
        }
        let hash = redis::Script::new(&text).get_hash().to_owned();
        (hash, (name.trim().to_lowercase(), text))
    });
    made.collect()
});

/// The length of the first command in what a client of Redis sent, and its kind if it counts. None: it is not whole yet.
pub(super) fn of_redis(bytes: &[u8]) -> Option<(usize, Option<String>)> {
    let (words, mut at) = number(bytes, 0, b'*')?;
    let mut first = Vec::new();
    for _ in 0..words {
        let (length, begin) = number(bytes, at, b'$')?;
        let end = begin + length;
        if bytes.len() < end + 2 {
            return None;
        }
        if first.len() < 2 {
            first.push(String::from_utf8_lossy(&bytes[begin..end]));
        }
        at = end + 2;
    }
    let kind = match &first[..] {
        [command, hash] if command.eq_ignore_ascii_case("EVALSHA") => {
            let name = SCRIPTS.get(hash.as_ref()).map_or(UNKNOWN, |(name, _)| name);
            (!BESIDE.contains(&name)).then(|| name.to_owned())
        }
        _ => None,
    };
    Some((at, kind))
}

/// The number behind a mark, and where its line ends.
fn number(bytes: &[u8], at: usize, mark: u8) -> Option<(usize, usize)> {
    let end = at + bytes.get(at..)?.windows(2).position(|two| two == b"\r\n")?;
    assert_eq!(bytes[at], mark, "a client of Redis sends arrays of strings");
    let digits = std::str::from_utf8(&bytes[at + 1..end]).expect("digits");
    Some((digits.parse().expect("a number"), end + 2))
}

/// The length of the first request in what a client of the engine sent, and its kind if it counts. None: it is not whole yet.
pub(super) fn of_engine(bytes: &[u8]) -> Option<(usize, Option<String>)> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let mut lines = text.split("\r\n");
    let mut request = lines.next()?.split(' ');
    let mut length = 0;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().expect("a number");
        }
        assert!(
            !name.eq_ignore_ascii_case("transfer-encoding"),
            "a client of the engine says how much it sends: {text}"
        );
    }
    if bytes.len() < head + length {
        return None;
    }
    let kind = kind_of(request.next()?, request.next()?);
    Some((head + length, kind.map(str::to_owned)))
}

/// The engine's verb for a request about one container.
fn kind_of(method: &str, path: &str) -> Option<&'static str> {
    let (_, about) = path.split('?').next()?.split_once("/containers/")?;
    let (container, verb) = about.split_once('/').unwrap_or((about, ""));
    Some(match (method, verb) {
        ("GET", "") if container == "json" => return None,
        ("POST", "") if container == "create" => "create",
        ("PUT", "archive") => "put_files",
        ("GET", "archive") => "read_file",
        ("HEAD", "archive") => "was_set_up",
        ("GET", "json") => "inspect",
        ("GET", "logs") => "follow",
        ("POST", "start") => "start",
        ("POST", "wait") => "wait",
        ("POST", "kill") => "signal",
        ("POST", "rename") => "rename",
        ("DELETE", "") => "remove",
        _ => "another request",
    })
}

#[test]
fn calls_are_told_apart() {
    let confirm = SCRIPTS.iter().find(|(_, (name, _))| name == "confirm").expect("a script").0;
    let apps = SCRIPTS.iter().find(|(_, (name, _))| name == "apps").expect("a script").0;
    let call = |hash: &str| format!("*3\r\n$7\r\nEVALSHA\r\n$40\r\n{hash}\r\n$1\r\n1\r\n");
    let both = call(confirm) + "*1\r\n$4\r\nPING\r\n";
    let first = call(confirm).len();
    assert_eq!(of_redis(both.as_bytes()), Some((first, Some("confirm".to_owned()))));
    assert_eq!(of_redis(&both.as_bytes()[first..]), Some((14, None)));
    assert_eq!(of_redis(&both.as_bytes()[..first - 1]), None);
    assert_eq!(of_redis(call(apps).as_bytes()).expect("whole").1, None);
    assert_eq!(of_redis(call(&"0".repeat(40)).as_bytes()).expect("whole").1.as_deref(), Some(UNKNOWN));
    let put = b"PUT /containers/c/archive?path=%2F HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc";
    assert_eq!(of_engine(put), Some((put.len(), Some("put_files".to_owned()))));
    assert_eq!(of_engine(&put[..put.len() - 1]), None);
    for (request, kind) in [
        ("GET /containers/json?all=true", None),
        ("GET /info", None),
        ("POST /v1.41/containers/create?name=x", Some("create")),
        ("DELETE /containers/c?v=true", Some("remove")),
        ("GET /containers/c/logs?x", Some("follow")),
    ] {
        let (method, path) = request.split_once(' ').expect("two words");
        assert_eq!(kind_of(method, path), kind, "{request}");
    }
}
