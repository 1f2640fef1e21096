//! The events of a release: read from a cursor on, in order, nothing twice and nothing missed.
//!
//! They are read by long-poll and not from the event stream, for the reasons that [`follow`](crate::client::follow) has: each answer is
//! whole or none, and says where to read on. What was not answered is asked for again, across dropped connections and restarts.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::ACCEPT;
use serde_json::Value;
use tokio::time::Instant;

use crate::client::http::{Answer, CallError, Http};
use crate::client::screen::Screen;
use crate::model::event::Cursor;
use crate::model::ids::ReleaseId;
use crate::wire::CloudEvent;

/// How many events are asked for at a time.
const PAGE: &str = "500";
/// The longest that the dispatcher's Retry-After is honoured.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// So many failures in a row are worth a word.
const WORTH_A_WORD: u32 = 2;

/// What one answer has.
pub(super) struct Piece {
    pub(super) events: Vec<Told>,
    /// Events before these may have been missed.
    pub(super) missed: bool,
}

/// An event, and the JSON that it came as.
#[derive(Debug, PartialEq)]
pub(super) struct Told {
    pub(super) event: CloudEvent,
    pub(super) json: Value,
}

/// One reader's place among the events of a release.
pub(super) struct History<'a> {
    http: &'a Http,
    release: ReleaseId,
    after: Option<String>,
    /// An answer has come: the release was there.
    known: bool,
}

impl<'a> History<'a> {
    /// From an event on, which a user has named; from the first otherwise.
    pub(super) fn new(http: &'a Http, release: ReleaseId, after: Option<String>) -> Self {
        Self { http, release, after, known: false }
    }

    /// The next events. Waits so many seconds while there are none; what passes is waited out and said.
    pub(super) async fn next(&mut self, wait: u64, screen: &mut Screen) -> Result<Piece, CallError> {
        let (http, release, after) = (self.http, self.release.to_string(), self.after.clone());
        let ask = async || {
            let seconds = wait.to_string();
            let mut query = vec![("wait", seconds.as_str()), ("limit", PAGE)];
            query.extend(after.as_deref().map(|after| ("after", after)));
            let request = http.request(Method::GET, &["releases", &release, "events"], &query);
            let request = request.header(ACCEPT, "application/cloudevents-batch+json");
            let answer = http.send(request.timeout(http.patience.call + Duration::from_secs(wait))).await?;
            read(&answer, after.as_deref())
        };
        let (piece, at) = patiently(http, screen, self.known, ask).await?;
        (self.after, self.known) = (Some(at.to_string()), true);
        Ok(piece)
    }
}

/// Repeats a question that changes nothing until it is answered, or nothing usable was heard for too long. `known`: what it is about was
/// there before, and may be unknown for a moment while the dispatcher's memory is rebuilt.
pub(in crate::client) async fn patiently<T>(
    http: &Http,
    screen: &mut Screen,
    known: bool,
    ask: impl AsyncFn() -> Result<T, CallError>,
) -> Result<T, CallError> {
    let patience = http.patience;
    let since = Instant::now();
    let mut failures = 0;
    loop {
        let error = match ask().await {
            Ok(answer) => {
                if failures >= WORTH_A_WORD {
                    screen.note("the dispatcher answers again");
                }
                return Ok(answer);
            }
            Err(error) => error,
        };
        let until = match &error {
            _ if error.passes() => since + patience.silence,
            // A proxy may answer with anything while the dispatcher behind it is away, and a certificate may be changing.
            CallError::Foreign(_) | CallError::Untrusted(_) if known => since + patience.silence,
            _ if known && matches!(error.problem(), Some((404, _))) => since + patience.asking,
            _ => return Err(error),
        };
        let asked = error.retry_after().unwrap_or_default().min(RETRY_AFTER_MAX);
        let pause = patience.pause(failures).max(asked);
        if Instant::now() + pause > until {
            return Err(error);
        }
        failures += 1;
        if failures == WORTH_A_WORD {
            screen.note(&format!("no answer from the dispatcher, trying again ({error})"));
        }
        tokio::time::sleep(pause).await;
    }
}

/// Reads an answer to the question for events after a certain one. One that is older than the question, or somebody else's, is none.
fn read(answer: &Answer, after: Option<&str>) -> Result<(Piece, Cursor), CallError> {
    let garbled = |what: &str| CallError::Garbled(what.to_owned());
    let next = answer.header("lockstep-next-cursor").ok_or_else(|| garbled("Lockstep-Next-Cursor is missing"))?;
    let next: Cursor = next.parse().map_err(|_| garbled("Lockstep-Next-Cursor is no cursor"))?;
    let mut at = after.and_then(|after| after.parse().ok()).unwrap_or(Cursor::START);
    let batch: Vec<Value> = answer.json()?;
    let mut events = Vec::with_capacity(batch.len());
    for json in batch {
        let event: CloudEvent =
            serde_json::from_value(json.clone()).map_err(|_| garbled("an event has not the form of one"))?;
        let place: Cursor = event.id.parse().map_err(|_| garbled("an event's id is no cursor"))?;
        if place <= at {
            return Err(garbled("the events are not those after the last one"));
        }
        at = place;
        events.push(Told { event, json });
    }
    if next < at {
        return Err(garbled("Lockstep-Next-Cursor goes back"));
    }
    Ok((Piece { events, missed: answer.header("lockstep-events-missed") == Some("true") }, next))
}

#[cfg(test)]
pub(super) mod tests {
    use bytes::Bytes;
    use reqwest::header::{HeaderMap, HeaderValue};
    use serde_json::json;

    use super::*;

    /// An event of a release in `dev`, a second after the one before.
    pub(in super::super) fn event(number: u64, what: &str, more: Value) -> Value {
        let mut custom = json!({"event": what, "stage": "dev"});
        custom.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        json!({
            "specversion": "1.0", "id": format!("{}-0", 1_700_000_000_000 + number * 1000), "source": "/lockstep/x",
            "type": "dev.cdeventsx.lockstep-release.x.0.1.0", "subject": "01GZEC5GJHFKWMK4Z5A1NM9DPF",
            "time": format!("2023-11-14T22:13:{:02}.000Z", 20 + number), "datacontenttype": "application/json",
            "data": {"customData": custom},
        })
    }

    fn answer(events: &[Value], next: &str) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert("lockstep-next-cursor", HeaderValue::from_str(next).expect("a header"));
        Answer { headers, body: Bytes::from(serde_json::to_vec(events).expect("JSON")) }
    }

    #[test]
    fn nothing_comes_twice_and_nothing_out_of_order() {
        let (one, two) = (event(1, "accepted", json!({})), event(2, "rejected", json!({})));
        let both = answer(&[one.clone(), two.clone()], "1700000002000-0");
        let (piece, at) = read(&both, None).expect("it is right");
        assert_eq!((piece.events.len(), piece.missed, at.to_string()), (2, false, "1700000002000-0".into()));
        // An empty answer may lead on as well.
        let (piece, at) = read(&answer(&[], "1700000009000-0"), Some("1700000002000-0")).expect("it is right");
        assert_eq!((piece.events.len(), at.to_string()), (0, "1700000009000-0".into()));
        assert!(read(&answer(&[], "1700000009000-0"), Some("now")).is_ok());
        for (events, next, after) in [
            (vec![one.clone()], "1700000001000-0", Some("1700000001000-0")),
            (vec![two.clone(), one.clone()], "1700000002000-0", None),
            (vec![one.clone(), two.clone()], "1700000001000-0", None),
            (vec![], "0-0", Some("1700000001000-0")),
            (vec![json!({"id": "1-0"})], "1-0", None),
            (vec![], "x", None),
        ] {
            let read = read(&answer(&events, next), after);
            assert!(matches!(read, Err(CallError::Garbled(_))), "{next} after {after:?}");
        }
    }
}
