//! Which credential a command uses, and where it comes from.
//!
//! What is named on the command line goes before what is in the environment; of several that would do, the one that can do less: an
//! ID token, which is a CI job's own and soon over, before an app's secret, and this before an operator's token.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use reqwest::header::HeaderValue;
use zeroize::Zeroizing;

use super::args::Options;
use super::exit::Fault;
use crate::model::app::Secret;
use crate::model::ids::DeploymentId;

/// Holds an app's deployment secret.
const SECRET_VARIABLE: &str = "LOCKSTEP_DEPLOYMENT_SECRET";
/// Holds an ID token of a CI job.
const ID_TOKEN_VARIABLE: &str = "LOCKSTEP_ID_TOKEN";
/// Holds a token.
const TOKEN_VARIABLE: &str = "LOCKSTEP_TOKEN";
/// Variables that hold a credential for an app or a job.
const ALL: [&str; 3] = [ID_TOKEN_VARIABLE, SECRET_VARIABLE, TOKEN_VARIABLE];
/// The largest file that is read for a secret, in bytes; an OIDC token has a few thousand.
const FILE_MAX: u64 = 64 * 1024;

/// What a command needs a credential for.
#[derive(Debug, Clone, Copy)]
pub enum Need<'a> {
    /// Something that an app's secret, an ID token or an operator's token opens; the app is known.
    App(&'a DeploymentId),
    /// A job, whose app may be named.
    Job(Option<&'a DeploymentId>),
    /// Something that takes a token: an operator's, or that of another role.
    Operator,
}

/// A credential, and where it was found.
#[derive(Debug)]
pub struct Credential {
    kind: Kind,
    from: String,
}

#[derive(Debug)]
enum Kind {
    App(DeploymentId, Secret),
    /// With the file that it is read from again.
    IdToken(Secret, Option<PathBuf>),
    Token(Secret),
}

/// One place in which a credential was looked for.
type Found = Option<(Secret, String)>;

impl Credential {
    /// Chooses. `env` reads a variable of the environment.
    pub fn choose(options: &Options, need: Need<'_>, env: impl Fn(&str) -> Option<String>) -> Result<Self, Fault> {
        let named_token = options.token_file.as_deref().map(read_file).transpose()?;
        let id_token = |found: Found, file: Option<&Path>| {
            found.map(|(token, from)| Self { kind: Kind::IdToken(token, file.map(Into::into)), from })
        };
        let file = options.id_token_file.as_deref();
        let named_id_token = id_token(file.map(read_file).transpose()?, file);
        let token = |found: Found| found.map(|(token, from)| Self { kind: Kind::Token(token), from });
        let of_app = |id: &DeploymentId, found: Found| {
            found.map(|(secret, from)| Self { kind: Kind::App(id.clone(), secret), from })
        };
        match need {
            Need::Operator => {
                if let Some(chosen) = token(named_token) {
                    return Ok(chosen);
                }
                if options.secret_file.is_some() || named_id_token.is_some() {
                    return Err(Fault::usage(
                        "a deployment secret or an ID token does not open this: it takes a token",
                        format!(
                            "Give an operator's token, or that of a role which may do this, by --token-file FILE or {TOKEN_VARIABLE}."
                        ),
                    ));
                }
                token(read_env(TOKEN_VARIABLE, &env)?).ok_or_else(|| missing(&env, &[TOKEN_VARIABLE], "--token-file"))
            }
            Need::App(id) | Need::Job(Some(id)) => {
                let named_secret = options.secret_file.as_deref().map(read_file).transpose()?;
                if let Some(chosen) = named_id_token.or_else(|| of_app(id, named_secret)).or_else(|| token(named_token))
                {
                    return Ok(chosen);
                }
                if let Some(chosen) = id_token(read_env(ID_TOKEN_VARIABLE, &env)?, None) {
                    return Ok(chosen);
                }
                if let Some(chosen) = of_app(id, read_env(SECRET_VARIABLE, &env)?) {
                    return Ok(chosen);
                }
                token(read_env(TOKEN_VARIABLE, &env)?)
                    .ok_or_else(|| missing(&env, &ALL, "--id-token-file, --secret-file or --token-file"))
            }
            Need::Job(None) => {
                let no_app = || {
                    Fault::usage(
                        "a deployment secret opens a job only together with the id of the job's app",
                        "Give --app DEPLOYMENT_ID or LOCKSTEP_DEPLOYMENT_ID.",
                    )
                };
                if options.secret_file.is_some() {
                    return Err(no_app());
                }
                if let Some(chosen) = named_id_token.or_else(|| token(named_token)) {
                    return Ok(chosen);
                }
                if let Some(chosen) = id_token(read_env(ID_TOKEN_VARIABLE, &env)?, None) {
                    return Ok(chosen);
                }
                match token(read_env(TOKEN_VARIABLE, &env)?) {
                    Some(chosen) => Ok(chosen),
                    None if read_env(SECRET_VARIABLE, &env)?.is_some() => Err(no_app()),
                    None => Err(missing(&env, &ALL, "--id-token-file, --secret-file with --app, or --token-file")),
                }
            }
        }
    }

    /// The value of `Authorization`.
    pub(super) fn header(&self) -> Result<HeaderValue, Fault> {
        use base64::Engine as _;
        let text = Zeroizing::new(match &self.kind {
            Kind::App(id, secret) => {
                let pair = Zeroizing::new(format!("{id}:{}", secret.expose()));
                format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair.as_bytes()))
            }
            Kind::IdToken(token, _) | Kind::Token(token) => format!("Bearer {}", token.expose()),
        });
        let mut value = HeaderValue::from_str(&text).map_err(|_| {
            Fault::usage(
                format!("the token from {} has characters that a token cannot have", self.from),
                "Check that it is the right file, without blanks or lines around the token.",
            )
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// The app whose secret it is.
    pub(super) fn app(&self) -> Option<&DeploymentId> {
        match &self.kind {
            Kind::App(id, _) => Some(id),
            Kind::IdToken(..) | Kind::Token(_) => None,
        }
    }

    /// The file that an ID token was read from. Such tokens last for minutes, and whoever has a job that lasts longer puts a new
    /// one there.
    pub(super) fn renewed_in(&self) -> Option<&Path> {
        match &self.kind {
            Kind::IdToken(_, file) => file.as_deref(),
            Kind::App(..) | Kind::Token(_) => None,
        }
    }

    /// The value of `Authorization` with the ID token that is in a file now.
    pub(super) fn renewed(file: &Path) -> Result<HeaderValue, Fault> {
        let (token, from) = read_file(file)?;
        Self { kind: Kind::IdToken(token, None), from }.header()
    }

    /// What to do when it is refused.
    pub(super) fn advice(&self) -> &'static str {
        match &self.kind {
            Kind::IdToken(..) => {
                "Check that the token is made for this dispatcher (its audience), that the app's entry has a rule for this project and branch, \
                 and that its time is not over; the dispatcher's log says what did not fit."
            }
            Kind::App(..) | Kind::Token(_) => "Check the id, and that the secret or token there is the current one.",
        }
    }

    /// Whose it is and where it was read, for messages.
    pub(super) fn describe(&self) -> String {
        match &self.kind {
            Kind::App(id, _) => format!("deployment id {id} with the secret from {}", self.from),
            Kind::IdToken(..) => format!("the ID token from {}", self.from),
            Kind::Token(_) => format!("the token from {}", self.from),
        }
    }
}

/// Nothing was found. CI systems hand an unavailable secret over as an empty variable, which deserves a word.
fn missing(env: &impl Fn(&str) -> Option<String>, variables: &[&str], flags: &str) -> Fault {
    let empty = variables.iter().find(|name| env(name).is_some_and(|value| value.is_empty()));
    let what = match empty {
        Some(name) => format!("no credential: {name} is set but empty"),
        None => "no credential was given".to_owned(),
    };
    let hint = match empty {
        Some(_) => {
            "Check that the CI's secret of that name exists and is available to this branch and environment.".into()
        }
        None => format!("Give {flags}, or set {}.", variables.join(" or ")),
    };
    Fault::usage(what, hint)
}

fn read_env(name: &str, env: &impl Fn(&str) -> Option<String>) -> Result<Found, Fault> {
    match env(name) {
        None => Ok(None),
        Some(value) if value.is_empty() => Ok(None),
        Some(value) => check(Zeroizing::new(value), name).map(Some),
    }
}

fn read_file(path: &Path) -> Result<(Secret, String), Fault> {
    let shown = path.display().to_string();
    let mut text = Zeroizing::new(String::new());
    let file = std::fs::File::open(path).map_err(|error| {
        Fault::usage(
            format!("the secret file {shown} cannot be opened: {error}"),
            "Check the path and that this user may read it.",
        )
    })?;
    file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(|error| {
        Fault::usage(format!("the secret file {shown} cannot be read: {error}"), "It must hold one line of text.")
    })?;
    if text.len() as u64 > FILE_MAX {
        return Err(Fault::usage(format!("the secret file {shown} is too large"), "It must hold one line of text."));
    }
    check(text, &shown)
}

/// One line, whose end editors add.
fn check(text: Zeroizing<String>, from: &str) -> Result<(Secret, String), Fault> {
    let line = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if line.is_empty() || line.chars().any(char::is_control) {
        let what = if line.is_empty() { "is empty" } else { "has control characters or more than one line" };
        return Err(Fault::usage(format!("the secret from {from} {what}"), "It must be one line of text."));
    }
    Ok((Secret::new(line.to_owned()), from.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::exit::Exit;

    fn options(secret: Option<&Path>, token: Option<&Path>) -> Options {
        Options {
            url: String::new(),
            ca_cert: None,
            secret_file: secret.map(Into::into),
            id_token_file: None,
            token_file: token.map(Into::into),
        }
    }

    fn env<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        file
    }

    #[test]
    fn the_order_of_places() {
        let id: DeploymentId = "app".parse().expect("an id");
        let (secret, token) = (file("of-file\n"), file("token-of-file\r\n"));
        let both = [(SECRET_VARIABLE, "of-env"), (TOKEN_VARIABLE, "token-of-env")];
        let only_token = [(SECRET_VARIABLE, ""), (TOKEN_VARIABLE, "token-of-env")];
        let header = |options: &Options, need, pairs: &[(&str, &str)]| {
            let value =
                Credential::choose(options, need, env(pairs)).expect("a credential").header().expect("a header");
            assert!(value.is_sensitive());
            value.to_str().expect("ASCII").to_owned()
        };
        let none = options(None, None);
        for need in [Need::App(&id), Need::Job(Some(&id))] {
            assert_eq!(header(&options(Some(secret.path()), None), need, &both), "Basic YXBwOm9mLWZpbGU=");
            assert_eq!(header(&options(None, Some(token.path())), need, &both), "Bearer token-of-file");
            assert_eq!(header(&none, need, &both), "Basic YXBwOm9mLWVudg==");
            assert_eq!(header(&none, need, &only_token), "Bearer token-of-env");
        }
        let id_token = file("id-token-of-file\n");
        let by_id_token = Options { id_token_file: Some(id_token.path().into()), ..none.clone() };
        let all = [(ID_TOKEN_VARIABLE, "id-token-of-env"), both[0], both[1]];
        for need in [Need::App(&id), Need::Job(Some(&id)), Need::Job(None)] {
            assert_eq!(header(&by_id_token, need, &all), "Bearer id-token-of-file");
            assert_eq!(header(&none, need, &all), "Bearer id-token-of-env");
        }
        assert_eq!(header(&none, Need::Operator, &all), "Bearer token-of-env");
        let chosen = Credential::choose(&by_id_token, Need::App(&id), env(&[])).expect("a credential");
        std::fs::write(id_token.path(), "another\n").expect("written");
        let renewed = Credential::renewed(chosen.renewed_in().expect("a file")).expect("a header");
        assert_eq!(renewed, "Bearer another");
        for need in [Need::Job(None), Need::Operator] {
            assert_eq!(header(&none, need, &both), "Bearer token-of-env");
            assert_eq!(header(&options(None, Some(token.path())), need, &both), "Bearer token-of-file");
        }
    }

    #[test]
    fn what_is_missing_is_said_and_the_secret_is_not() {
        let id: DeploymentId = "app".parse().expect("an id");
        let none = options(None, None);
        let secret = [(SECRET_VARIABLE, "of-env")];
        let two_lines = file("first\nsecond\n");
        let empty = file("\n");
        for (options, need, pairs, part) in [
            (&none, Need::App(&id), &[][..], "no credential was given"),
            (&none, Need::App(&id), &[(SECRET_VARIABLE, "")], "set but empty"),
            (&none, Need::App(&id), &[(SECRET_VARIABLE, "of\tenv")], "control characters"),
            (&none, Need::Job(None), &secret, "id of the job's app"),
            (&none, Need::Operator, &secret, "no credential was given"),
            (&options(Some(Path::new("/nowhere/x")), None), Need::App(&id), &[], "/nowhere/x cannot be opened"),
            (&options(Some(two_lines.path()), None), Need::App(&id), &[], "more than one line"),
            (&options(Some(empty.path()), None), Need::App(&id), &[], "is empty"),
            (&options(Some(two_lines.path()), None), Need::Operator, &[], "it takes a token"),
            (
                &Options { id_token_file: Some(two_lines.path().into()), ..none.clone() },
                Need::App(&id),
                &[],
                "more than one",
            ),
            (&none, Need::App(&id), &[(ID_TOKEN_VARIABLE, "")], "LOCKSTEP_ID_TOKEN is set but empty"),
        ] {
            let fault = Credential::choose(options, need, env(pairs)).expect_err(part);
            assert_eq!(fault.exit, Exit::Usage);
            assert!(fault.what.contains(part), "{fault:?} should contain {part:?}");
            let shown = format!("{fault:?}");
            assert!(!["of-env", "first", "second"].iter().any(|secret| shown.contains(secret)), "{shown}");
        }
        let chosen = Credential::choose(&none, Need::App(&id), env(&secret)).expect("a credential");
        assert!(!format!("{chosen:?} {}", chosen.describe()).contains("of-env"));
    }
}
