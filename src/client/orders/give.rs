//! `lockstep order apply`: shows the plan, gives the order once, follows it.

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;

use super::args::{Apply, Which};
use super::follow::{Following, after};
use super::{FILE, plan};
use crate::client::deploy::{Unanswered, persist};
use crate::client::exit::{Exit, Fault};
use crate::client::http::{Answer, CallError, Http};
use crate::client::releases::patiently;
use crate::client::screen::Screen;
use crate::client::signals::Signals;
use crate::clock;
use crate::model::ids::Word;
use crate::model::order::OrderId;
use crate::wire::OrderView;

/// What is given.
struct Given {
    /// The file.
    text: String,
    environment: Word,
    mode: Word,
    /// The order whose file it is.
    again: Option<OrderId>,
}

/// `order apply`
pub(super) async fn apply(args: Apply, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let mut signals = Signals::listen();
    let key = args.idempotency_key.clone().unwrap_or_else(clock::draw_name);
    let id = tokio::select! {
        biased;
        number = signals.next() => {
            return Err(Fault {
                exit: Exit::Signal(number),
                what: "the order: interrupted before the answer came".into(),
                hint: Some(repeat(&key)),
            });
        }
        given = give(&args, &key, http, screen) => given?,
    };
    let Some((view, id)) = id else { return Ok(Exit::Refused) };
    if args.detach {
        // The id alone goes to standard output, so that it can be handed on.
        screen.say(&id.to_string());
        return Ok(Exit::Done);
    }
    after(Following { http, id, json: args.json }, Some(view), screen, &mut signals).await
}

/// Shows the plan, and gives the order; none: the plan says why it cannot be carried out.
async fn give(
    args: &Apply,
    key: &str,
    http: &Http,
    screen: &mut Screen,
) -> Result<Option<(OrderView, OrderId)>, Fault> {
    let given = given(args, http, screen).await?;
    let (environment, mode) = (given.environment.as_str(), given.mode.as_str());
    let (_, planned) = plan::ask(http, screen, &given.text, mode, environment).await?;
    let (refused, quiet) = (!planned.problems.is_empty(), args.json || args.detach);
    if quiet && !refused {
        screen.note(&format!("the plan for environment {environment} ({mode}): {}", plan::sum(&planned)));
    } else {
        screen.shield();
        for line in plan::lines(&planned, screen.look().colour) {
            if quiet { screen.note(&line) } else { screen.say(&line) }
        }
    }
    if refused {
        return Ok(None);
    }
    let about = format!("the order for environment {environment}");
    let make = || {
        let query = [("mode", mode)];
        let request = match &given.again {
            None => {
                let request = http.request(Method::POST, &["orders"], &query);
                request.header(CONTENT_TYPE, "application/yaml").body(given.text.clone())
            }
            Some(id) => {
                let number = id.number.to_string();
                http.request(Method::POST, &["orders", id.environment.as_str(), &number, "again"], &query)
            }
        };
        request.header("Idempotency-Key", key).timeout(http.patience.asking)
    };
    let answer = persist(http, screen, make).await.map_err(|Unanswered { error, sent }| {
        let mut fault = http.fault(&error, &about);
        if sent && fault.exit == Exit::NotReached {
            fault.hint = Some(repeat(key));
        }
        fault
    })?;
    let understood = understood(&answer, &given.environment);
    understood.map(Some).map_err(|error| Fault { hint: Some(repeat(key)), ..http.fault(&error, &about) })
}

fn repeat(key: &str) -> String {
    format!(
        "It may have been given all the same. To find out, give the same command with --idempotency-key {key}: \
         that can't make a second order."
    )
}

/// The file and what it is given for, from a path or from an order of before.
async fn given(args: &Apply, http: &Http, screen: &mut Screen) -> Result<Given, Fault> {
    let again = again(args)?;
    match (&args.file, again, &args.mode) {
        (Some(path), _, Some(mode)) => {
            let (spec, text) = FILE.of(path)?;
            Ok(Given { text, environment: spec.environment, mode: mode.clone(), again: None })
        }
        (_, Some(id), mode) => {
            let number = id.number.to_string();
            let fault = |error| http.fault(&error, &format!("order {id}"));
            let path = ["orders", id.environment.as_str(), &number];
            let mode = match mode {
                Some(mode) => mode.clone(),
                None => {
                    let look = async || super::about(http.get(&path).await?, &id);
                    let view = patiently(http, screen, false, look).await.map_err(fault)?;
                    view.summary.mode.parse().map_err(|_| fault(CallError::Garbled("its mode is no name".into())))?
                }
            };
            let [orders, environment, number] = path;
            let file = async || http.send(http.request(Method::GET, &[orders, environment, number, "file"], &[])).await;
            let answer = patiently(http, screen, false, file).await.map_err(fault)?;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            Ok(Given { text, environment: id.environment.clone(), mode, again: Some(id) })
        }
        // Seen to by clap.
        (_, None, _) => Err(Fault::usage("there is no order to give", "Name its file and --mode, or --order.")),
    }
}

/// The order that is given anew.
fn again(args: &Apply) -> Result<Option<OrderId>, Fault> {
    match (&args.order, &args.environment) {
        (None, _) => Ok(None),
        (Some(Which::Order(id)), Some(environment)) if *environment != id.environment => Err(Fault::usage(
            format!("order {id} is not one of environment {environment}"),
            "Leave --environment out, or give the number alone.",
        )),
        (Some(Which::Order(id)), _) => Ok(Some(id.clone())),
        (Some(Which::Number(number)), Some(environment)) => {
            Ok(Some(OrderId { environment: environment.clone(), number: *number }))
        }
        (Some(Which::Number(number)), None) => Err(Fault::usage(
            format!("order {number} of which environment?"),
            format!("Each environment counts its own: --order ENVIRONMENT/{number}."),
        )),
    }
}

/// The order that was given, if the answer is about this environment.
fn understood(answer: &Answer, environment: &Word) -> Result<(OrderView, OrderId), CallError> {
    let view: OrderView = answer.json()?;
    let id: OrderId =
        view.summary.id.parse().map_err(|_| CallError::Garbled("its id is not that of an order".into()))?;
    if id.environment != *environment {
        return Err(CallError::Garbled("it is about another environment".into()));
    }
    Ok((view, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_of_before_is_named_once() {
        let args = |order: &str, environment: Option<&str>| Apply {
            file: None,
            order: Some(match order.parse() {
                Ok(id) => Which::Order(id),
                Err(_) => Which::Number(order.parse().expect("a number")),
            }),
            environment: environment.map(|name| name.parse().expect("a name")),
            mode: None,
            idempotency_key: None,
            json: false,
            detach: false,
        };
        let id: OrderId = "3/1".parse().expect("an order");
        assert_eq!(again(&args("3/1", None)), Ok(Some(id.clone())));
        assert_eq!(again(&args("1", Some("3"))), Ok(Some(id.clone())));
        assert_eq!(again(&args("3/1", Some("3"))), Ok(Some(id)));
        for (bad, part) in [
            (args("3/1", Some("4")), "order 3/1 is not one of environment 4"),
            (args("1", None), "order 1 of which environment?"),
        ] {
            let fault = again(&bad).expect_err(part);
            assert!(fault.exit == Exit::Usage && fault.what == part, "{fault:?}");
        }
    }
}
