//! The commands about the installation itself: tokens, webhooks, the audit log.

use std::time::Duration;

use reqwest::Method;

use super::args::{
    Audit, Listed, Removed, Tokens, TokensIssue, Webhooks, WebhooksDeadLetters, WebhooksReplay, WebhooksSet,
};
use super::deploy::read;
use super::escape::plain;
use super::exit::{Exit, Fault};
use super::http::Http;
use super::operate::say_json;
use super::recap::table;
use super::screen::Screen;
use crate::wire::{
    AuditPage, Because, DeadLetterList, ReplayRequest, TokenIssued, TokenList, TokenRequest, WebhookList,
    WebhookRequest, WebhookSet, WebhookView,
};

pub(super) fn head<const N: usize>(names: [&str; N]) -> Vec<String> {
    names.map(str::to_owned).to_vec()
}

pub(super) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(|cell| if cell.is_empty() { "-".to_owned() } else { plain(cell) }).to_vec()
}

pub(super) fn show(screen: &mut Screen, rows: &[Vec<String>]) {
    let columns = rows.first().map_or(0, Vec::len);
    for line in table(rows, columns) {
        screen.say(&line);
    }
}

/// What was shown this once, if it was.
fn printed(screen: &Screen, what: &str, hint: &str) -> Result<Exit, Fault> {
    match screen.unprinted() {
        None => Ok(Exit::Done),
        Some(_) => {
            Err(Fault { exit: Exit::NotSucceeded, what: format!("{what} is lost"), hint: Some(hint.to_owned()) })
        }
    }
}

/// `tokens`
pub(super) async fn tokens(args: Tokens, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    match args {
        Tokens::Issue(issue) => issue_token(issue, http, screen).await,
        Tokens::List(list) => list_tokens(list, http, screen).await,
        Tokens::Revoke(Removed { name, reason }) => {
            remove(http, &["tokens", name.as_str()], reason, &format!("the token of {name}")).await?;
            screen.note(&format!(
                "the token of {name} opens nothing any more; a stream of events that is open ends within 15 minutes"
            ));
            Ok(Exit::Done)
        }
    }
}

async fn issue_token(args: TokensIssue, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let fault = |error| http.fault(&error, &format!("the token of {}", args.name));
    let request = TokenRequest {
        name: args.name.to_string(),
        role: args.role.parse().map_err(|what| Fault::usage(format!("--role {what}"), "See --help."))?,
        groups: args.groups.iter().map(ToString::to_string).collect(),
        expires_in: args.lasting.as_ref().map(Duration::as_secs),
        reason: args.reason.clone(),
    };
    let answer = http.send_json(Method::POST, &["tokens"], &request).await.map_err(fault)?;
    let issued: TokenIssued = answer.json().map_err(fault)?;
    // The token alone goes to standard output, so that it can be written to a file.
    let until =
        issued.view.expires_at.map_or_else(|| "until it is revoked".to_owned(), |at| format!("until {}", plain(&at)));
    screen.note(&format!("the token of {}, {}, good {until}; it is shown this once:", args.name, issued.view.role));
    screen.say(&plain(&issued.token));
    printed(screen, "the token", "It is shown once: revoke it, and issue another one.")
}

async fn list_tokens(args: Listed, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let fault = |error| http.fault(&error, "the tokens");
    let answer = http.send(http.request(Method::GET, &["tokens"], &[])).await.map_err(fault)?;
    if args.json {
        say_json(screen, &answer);
        return Ok(Exit::Done);
    }
    let list: TokenList = answer.json().map_err(fault)?;
    let mut rows = vec![head(["name", "role", "groups", "issued", "by", "expires"])];
    for token in &list.tokens {
        let groups = token.groups.join(" ");
        let expires = token.expires_at.as_deref().unwrap_or_default();
        rows.push(row([&token.name, token.role.as_str(), &groups, &token.issued_at, &token.by, expires]));
    }
    show(screen, &rows);
    Ok(Exit::Done)
}

pub(super) async fn remove(http: &Http, path: &[&str], reason: Option<String>, about: &str) -> Result<(), Fault> {
    let request = http.request(Method::DELETE, path, &[]).json(&Because { reason });
    http.send(request).await.map(drop).map_err(|error| http.fault(&error, about))
}

/// `webhooks`
pub(super) async fn webhooks(args: Webhooks, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    match args {
        Webhooks::Set(set) => set_webhook(set, http, screen).await,
        Webhooks::List(list) => list_webhooks(list, http, screen).await,
        Webhooks::DeadLetters(letters) => dead_letters(letters, http, screen).await,
        Webhooks::Replay(args) => replay(args, http, screen).await,
        Webhooks::Remove(Removed { name, reason }) => {
            remove(http, &["webhooks", name.as_str()], reason, &format!("the webhook {name}")).await?;
            screen.note(&format!("the webhook {name} is removed"));
            Ok(Exit::Done)
        }
    }
}

async fn set_webhook(args: WebhooksSet, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let about = format!("the webhook {}", args.name);
    let fault = |error| http.fault(&error, &about);
    let key = args.key_file.as_deref().map(|path| read(path, "key")).transpose()?;
    let request = WebhookRequest {
        url: args.to,
        deployment_id: args.app.map(Into::into),
        types: args.types,
        recipient: args.recipient.map(Into::into),
        secret: key.map(|key| String::from_utf8_lossy(&key).trim().to_owned()),
        after: args.after,
        reason: args.reason,
    };
    let answer = http.send_json(Method::PUT, &["webhooks", args.name.as_str()], &request).await.map_err(fault)?;
    let set: WebhookSet = answer.json().map_err(fault)?;
    screen.note(&format!("the webhook {} goes on after event {}", args.name, plain(&set.view.after)));
    if let Some(secret) = set.secret {
        screen.note("its secret, which is shown this once:");
        screen.say(&plain(&secret));
        return printed(screen, "the secret", "It is shown once: set the webhook again with --key-file.");
    }
    Ok(Exit::Done)
}

async fn list_webhooks(args: Listed, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let fault = |error| http.fault(&error, "the webhooks");
    let answer = http.send(http.request(Method::GET, &["webhooks"], &[])).await.map_err(fault)?;
    if args.json {
        say_json(screen, &answer);
        return Ok(Exit::Done);
    }
    let list: WebhookList = answer.json().map_err(fault)?;
    let mut rows = vec![head(["name", "to", "app", "types", "after", "delivered", "failures", "dead letters"])];
    for hook in &list.webhooks {
        let app = hook.deployment_id.as_deref().unwrap_or_default();
        let delivered = hook.delivered_at.as_deref().unwrap_or_default();
        let (failures, dead) = (hook.failures.to_string(), hook.dead_letters.to_string());
        rows.push(row([&hook.name, &hook.url, app, &hook.types.join(" "), &hook.after, delivered, &failures, &dead]));
    }
    show(screen, &rows);
    for hook in &list.webhooks {
        if let Some(error) = &hook.error {
            let next = hook.next_try.as_deref().map(|at| format!("; tried again at {at}")).unwrap_or_default();
            screen.say(&format!("{}: {}{}", plain(&hook.name), plain(error), plain(&next)));
        }
    }
    Ok(Exit::Done)
}

async fn dead_letters(args: WebhooksDeadLetters, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let about = format!("the dead letters of {}", args.name);
    let fault = |error| http.fault(&error, &about);
    let path = ["webhooks", args.name.as_str(), "dead-letters"];
    let answer = http.send(http.request(Method::GET, &path, &[])).await.map_err(fault)?;
    if args.json {
        say_json(screen, &answer);
        return Ok(Exit::Done);
    }
    let list: DeadLetterList = answer.json().map_err(fault)?;
    let mut rows = vec![head(["event", "given up", "why"])];
    rows.extend(list.dead_letters.iter().map(|letter| row([&letter.event, &letter.given_up_at, &letter.error])));
    show(screen, &rows);
    Ok(Exit::Done)
}

async fn replay(args: WebhooksReplay, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let about = format!("the replay of {}", args.name);
    let fault = |error| http.fault(&error, &about);
    let request = ReplayRequest { after: args.after, reason: args.reason };
    let path = ["webhooks", args.name.as_str(), "replay"];
    let view: WebhookView =
        http.send_json(Method::POST, &path, &request).await.and_then(|it| it.json()).map_err(fault)?;
    screen.note(&format!("the webhook {} goes on after event {}", args.name, plain(&view.after)));
    Ok(Exit::Done)
}

/// `audit`
pub(super) async fn audit(args: Audit, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let fault = |error| http.fault(&error, "the audit log");
    let limit = args.lines.to_string();
    let answer = http.send(http.request(Method::GET, &["audit"], &[("limit", &limit)])).await.map_err(fault)?;
    if args.json {
        say_json(screen, &answer);
        return Ok(Exit::Done);
    }
    let page: AuditPage = answer.json().map_err(fault)?;
    let mut rows = vec![head(["time", "by", "what", "about", "reason"])];
    // The newest last, where a terminal is read.
    rows.extend(page.lines.iter().rev().map(|it| row([&it.time, &it.by, &it.what, &it.about, &it.reason])));
    show(screen, &rows);
    Ok(Exit::Done)
}
