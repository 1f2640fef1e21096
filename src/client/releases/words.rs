//! How a release is put into words: the same in the board, the timeline and what is said after a change.
//!
//! Whatever is in these words came from somebody else; it goes through [`plain`] here, once.

use std::collections::BTreeMap;

use crate::client::escape::plain;
use crate::client::screen::Tone;
use crate::model::ids::ReleaseId;
use crate::wire::{Artifact, ReleaseKind, ReleaseSummary, Standing, Verdict};

/// So many services of a release are named where releases are listed.
const SERVICES_SHOWN: usize = 3;

/// A time without its milliseconds; a text that is no time stays as it is.
pub(in crate::client) fn when(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(at) => format!("{at:.0}"),
        Err(_) => plain(text),
    }
}

/// Services and their versions, each a text.
pub(super) fn services(services: &BTreeMap<String, Artifact>) -> Vec<String> {
    services.iter().map(|(name, it)| plain(&format!("{name} {}", it.version))).collect()
}

/// The same where there is little room: the first of them, and how many more there are.
pub(super) fn few_services(all: &BTreeMap<String, Artifact>) -> Vec<String> {
    let mut shown = services(all);
    let more = shown.len().saturating_sub(SERVICES_SHOWN);
    // The line that says how many more would be as long as one more.
    if more > 1 {
        shown.truncate(SERVICES_SHOWN);
        shown.push(format!("and {more} more"));
    }
    shown
}

/// Whether the product is deployed anew or changed.
pub(super) fn kind(kind: ReleaseKind) -> &'static str {
    match kind {
        ReleaseKind::Initial => "initial",
        ReleaseKind::Update => "update",
    }
}

/// Where a release is: what its installation calls that, and the word for it, or its decision.
pub(super) fn state(standing: Standing, shown_as: Option<&str>, verdict: Option<Verdict>) -> String {
    let word = verdict.filter(|_| standing == Standing::Decided).map_or(standing.word(), Verdict::word);
    match shown_as {
        // A name of its own does not hide that something is wrong.
        Some(name) => format!("{} ({word})", plain(name)),
        None => word.to_owned(),
    }
}

/// The same of a summary.
pub(super) fn state_of(it: &ReleaseSummary) -> String {
    state(it.state, it.shown_as.as_deref(), it.decision.as_ref().map(|it| it.verdict))
}

/// How a state stands out.
pub(super) fn tone(standing: Standing, verdict: Option<Verdict>) -> Tone {
    match standing {
        Standing::Failed | Standing::RolledBack | Standing::Suspended => Tone::Bad,
        Standing::Decided if verdict == Some(Verdict::Rejected) => Tone::Bad,
        Standing::Decided | Standing::Ready | Standing::Undecided => Tone::Good,
        Standing::Superseded => Tone::Quiet,
        Standing::Entering | Standing::Working | Standing::Waiting => Tone::Plain,
    }
}

/// What it waits for and for whom; none: for nothing any more.
pub(super) fn waits(it: &ReleaseSummary) -> Option<String> {
    if matches!(it.state, Standing::Decided | Standing::Superseded) {
        return None;
    }
    let whom = it.waits_for_whom.join(", ");
    Some(plain(&if whom.is_empty() { it.waits_for.clone() } else { format!("{}: {whom}", it.waits_for) }))
}

/// What else is to be known of it at a glance.
pub(super) fn remarks(it: &ReleaseSummary) -> Vec<String> {
    let assigned = it.assigned.as_ref().filter(|group| !it.waits_for_whom.contains(group));
    let held = it.hold.as_ref().map(|hold| {
        let why = hold.act.reason.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        format!("automation is held in {}{why}", hold.stage)
    });
    [
        assigned.map(|group| format!("assigned to {group}")),
        it.ready_to_deploy.then(|| "ready to deploy".to_owned()),
        held,
        it.suspended.as_ref().map(|why| format!("suspended: {why}")),
        it.superseded_by.as_ref().map(|other| format!("{other} took its place")),
    ]
    .into_iter()
    .flatten()
    .map(|text| plain(&text))
    .collect()
}

/// In one sentence: which release is where, and what it waits for.
pub(super) fn whereabouts(it: &ReleaseSummary) -> String {
    let stage = it.stage.as_deref().map(|stage| format!(" in {}", plain(stage))).unwrap_or_default();
    let waits = waits(it).map(|what| format!(", waits for {what}")).unwrap_or_default();
    let superseded = it.superseded_by.as_deref().map(|by| format!(" by {}", plain(by))).unwrap_or_default();
    format!("release {} of {}{stage}: {}{superseded}{waits}", plain(&it.id), plain(&it.product), state_of(it))
}

/// Whether an answer is about this release.
pub(super) fn is(it: &ReleaseSummary, release: ReleaseId) -> bool {
    it.id == release.to_string()
}

/// A text in lines of at most so many characters, broken at blanks; a longer word is broken where it must be. Lines after the first are
/// indented by two.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(4);
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    let mut used = 0;
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        let begun = used > if lines.is_empty() { 0 } else { 2 };
        if begun && used + 1 + word.len() > width {
            lines.push(std::mem::replace(&mut line, "  ".to_owned()));
            used = 2;
        } else if begun {
            line.push(' ');
            used += 1;
        }
        while used + word.len() > width {
            let rest = word.split_off(width - used);
            line.extend(word);
            lines.push(std::mem::replace(&mut line, "  ".to_owned()));
            (word, used) = (rest, 2);
        }
        used += word.len();
        line.extend(word);
    }
    if !line.trim().is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_shown_to_the_second() {
        assert_eq!(when("2026-11-28T15:45:12.987Z"), "2026-11-28T15:45:12Z");
        assert_eq!(when("later\x1b[2J"), "later");
    }

    #[test]
    fn a_name_for_a_state_hides_no_failure() {
        assert_eq!(state(Standing::Failed, Some("Unverified"), None), "Unverified (failed)");
        assert_eq!(state(Standing::Decided, None, Some(Verdict::AcceptedWithWarnings)), "accepted_with_warnings");
    }

    #[test]
    fn many_services_are_counted() {
        let of = |count: usize| -> BTreeMap<String, Artifact> {
            let artifact = |at| Artifact { version: format!("{at}"), reference: None, digest: None };
            (0..count).map(|at| (format!("s{at:03}"), artifact(at))).collect()
        };
        assert_eq!(few_services(&of(3)), ["s000 0", "s001 1", "s002 2"]);
        assert_eq!(few_services(&of(4)), services(&of(4)));
        assert_eq!(few_services(&of(200)), ["s000 0", "s001 1", "s002 2", "and 197 more"]);
    }

    #[test]
    fn lines_are_broken_at_blanks() {
        assert_eq!(wrap("reports: ci-a, ci-b", 12), ["reports:", "  ci-a, ci-b"]);
        assert_eq!(wrap("0123456789ab c", 8), ["01234567", "  89ab c"]);
        assert_eq!(wrap("", 8), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn no_line_is_too_long_and_no_word_is_lost(text in "[a-zé ]{0,80}", width in 4usize..30) {
            let lines = wrap(&text, width);
            prop_assert!(lines.iter().all(|line| line.chars().count() <= width), "{:?}", lines);
            let bare = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(bare(&lines.concat()), bare(&text));
        }
    }
}
