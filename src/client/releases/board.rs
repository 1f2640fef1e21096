//! The board: a pipeline's stages side by side, in each the releases that are there.
//!
//! A stage in which there is none is as wide as its name, so that the way stays in sight. A board that does not fit is none: then the
//! releases are shown one below the other.

use std::collections::BTreeMap;

use super::words::{few_services, remarks, state_of, tone, waits, wrap};
use crate::client::escape::plain;
use crate::client::manage::{head, row};
use crate::client::recap::table;
use crate::client::screen::Tone;
use crate::wire::ReleaseSummary;

/// Below so many characters, stages are not put side by side.
const BOARD_MIN: usize = 100;
/// A column has room for an id, so that it can be copied,
const COLUMN_MIN: usize = 26;
/// and is not wider than is read at a glance.
const COLUMN_MAX: usize = 48;
/// Between two columns.
const GAP: &str = "   ";

/// Stages of pipelines, in order, where they are known.
pub(super) type Stages = BTreeMap<String, Vec<String>>;

type Line = (String, Tone);

/// Releases for people: on a board as far as that fits in `width`, else one below the other.
pub(super) fn board(releases: &[ReleaseSummary], stages: &Stages, width: usize, colour: bool) -> Vec<String> {
    let mut pipelines: BTreeMap<(&str, &str), Vec<&ReleaseSummary>> = BTreeMap::new();
    for release in releases {
        pipelines.entry((&release.pipeline, &release.product)).or_default().push(release);
    }
    let mut shown = Vec::new();
    for ((pipeline, product), releases) in pipelines {
        if !shown.is_empty() {
            shown.push(String::new());
        }
        let named = if pipeline == product { plain(pipeline) } else { plain(&format!("{pipeline} ({product})")) };
        shown.push(named);
        let columns = columns(stages.get(pipeline).map_or(&[], Vec::as_slice), &releases);
        match side_by_side(&columns, width) {
            Some(lines) => shown.extend(lines.iter().map(|line| painted(line, colour))),
            None => shown.extend(one_below_the_other(&columns, width, colour)),
        }
    }
    shown
}

/// Stages in the pipeline's order, and behind them those that it does not have any more; in each its releases.
fn columns<'a>(known: &[String], releases: &[&'a ReleaseSummary]) -> Vec<(String, Vec<&'a ReleaseSummary>)> {
    let mut columns: Vec<(String, Vec<&ReleaseSummary>)> = known.iter().map(|name| (plain(name), vec![])).collect();
    for release in releases {
        let stage = release.stage.as_deref().map_or_else(|| "-".to_owned(), plain);
        match columns.iter_mut().find(|(name, _)| *name == stage) {
            Some((_, there)) => there.push(release),
            None => columns.push((stage, vec![release])),
        }
    }
    columns
}

fn chars(text: &str) -> usize {
    text.chars().count()
}

/// The lines of the board, each as its cells, padded; none: it does not fit.
fn side_by_side(columns: &[(String, Vec<&ReleaseSummary>)], width: usize) -> Option<Vec<Vec<Line>>> {
    let names: Vec<String> = columns
        .iter()
        .map(|(name, there)| if there.is_empty() { name.clone() } else { format!("{name} ({})", there.len()) })
        .collect();
    let full = columns.iter().filter(|(_, there)| !there.is_empty()).count();
    let narrowest = |(name, (_, there)): (&String, &(String, Vec<_>))| {
        chars(name).max(if there.is_empty() { 0 } else { COLUMN_MIN })
    };
    let mut widths: Vec<usize> = names.iter().zip(columns).map(narrowest).collect();
    let taken = widths.iter().sum::<usize>() + chars(GAP) * columns.len().saturating_sub(1);
    if width < BOARD_MIN || taken > width {
        return None;
    }
    let spare = (width - taken) / full.max(1);
    for (own, (_, there)) in widths.iter_mut().zip(columns) {
        if !there.is_empty() {
            *own = (*own + spare).min(COLUMN_MAX.max(*own));
        }
    }
    let cells: Vec<Vec<Line>> = columns
        .iter()
        .zip(&widths)
        .map(|((_, there), width)| {
            let cards = there.iter().map(|release| card(release, *width));
            cards.collect::<Vec<_>>().join(&(String::new(), Tone::Plain))
        })
        .collect();
    let height = cells.iter().map(Vec::len).max().unwrap_or_default();
    let pad = |text: &str, width: usize| format!("{text:<width$}");
    let heads = names.iter().zip(&widths).map(|(name, width)| (pad(name, *width), Tone::Plain));
    let rules = widths.iter().map(|width| ("─".repeat(*width), Tone::Quiet));
    let mut lines = vec![heads.collect(), rules.collect()];
    lines.extend((0..height).map(|at| {
        let row = cells.iter().zip(&widths).map(|(cells, width)| {
            let (text, tone) = cells.get(at).map_or(("", Tone::Plain), |(text, tone)| (text.as_str(), *tone));
            (pad(text, *width), tone)
        });
        row.collect()
    }));
    Some(lines)
}

/// What stands in a stage for a release.
fn card(release: &ReleaseSummary, width: usize) -> Vec<Line> {
    let verdict = release.decision.as_ref().map(|it| it.verdict);
    let mut lines: Vec<Line> = vec![(plain(&release.id), Tone::Quiet)];
    let mut add = |text: &str, tone| lines.extend(wrap(text, width).into_iter().map(|line| (line, tone)));
    few_services(&release.services).iter().for_each(|service| add(service, Tone::Plain));
    add(&state_of(release), tone(release.state, verdict));
    if let Some(what) = waits(release) {
        add(&format!("waits for {what}"), Tone::Plain);
    }
    remarks(release).iter().for_each(|remark| add(remark, Tone::Quiet));
    lines
}

fn painted(cells: &[Line], colour: bool) -> String {
    let last = cells.iter().rposition(|(text, _)| !text.trim().is_empty()).unwrap_or_default();
    let cells = cells.iter().take(last + 1).enumerate().map(|(at, (text, tone))| {
        let text = if at == last { text.trim_end() } else { text };
        tone.paint(colour, text)
    });
    cells.collect::<Vec<_>>().join(GAP)
}

/// Stage by stage, for a terminal that is too narrow.
fn one_below_the_other(columns: &[(String, Vec<&ReleaseSummary>)], width: usize, colour: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for (stage, releases) in columns.iter().filter(|(_, releases)| !releases.is_empty()) {
        lines.push(Tone::Plain.paint(colour, &format!("── {stage} ({})", releases.len())));
        for release in releases {
            let card = card(release, width.saturating_sub(4));
            let lead = |at| if at == 0 { "  " } else { "    " };
            lines.extend(
                card.iter().enumerate().map(|(at, (text, tone))| tone.paint(colour, &format!("{}{text}", lead(at)))),
            );
        }
    }
    lines
}

/// Releases for a log or a script: one in a line.
pub(super) fn rows(releases: &[ReleaseSummary]) -> Vec<String> {
    let mut rows = vec![head(["id", "pipeline", "stage", "state", "services", "waits for", "remarks"])];
    rows.extend(releases.iter().map(|it| {
        let (services, remarks) = (few_services(&it.services).join(", "), remarks(it).join("; "));
        let (stage, waits) = (it.stage.as_deref().unwrap_or_default(), waits(it).unwrap_or_default());
        row([&it.id, &it.pipeline, stage, &state_of(it), &services, &waits, &remarks])
    }));
    table(&rows, 7)
}

#[cfg(test)]
mod tests {
    use super::super::timeline::tests::summary;
    use super::*;
    use crate::wire::{ActView, Artifact, DecisionView, Standing, Verdict};

    fn stages() -> Stages {
        let names = ["dev", "certified", "pre", "prod"].map(str::to_owned);
        BTreeMap::from([("foo".to_owned(), names.to_vec())])
    }

    fn releases() -> Vec<ReleaseSummary> {
        let artifact = |version: &str| Artifact { version: version.into(), reference: None, digest: None };
        let of = |end: &str, stage: &str, state| ReleaseSummary {
            id: format!("01GZEC5GJHFKWMK4Z5A1NM9D{end}"),
            stage: Some(stage.to_owned()),
            state,
            shown_as: None,
            ..summary()
        };
        let act = || ActView { by: Some("ada".into()), reason: None, at: "2026-11-28T15:00:00.000Z".into() };
        vec![
            ReleaseSummary {
                shown_as: Some("Unverified\x1b[2J".into()),
                assigned: Some("testers".into()),
                ..of("P1", "dev", Standing::Waiting)
            },
            ReleaseSummary {
                waits_for: "retry, bypass, rollback or reject".into(),
                waits_for_whom: vec!["sysadmins".into()],
                assigned: Some("sysadmins".into()),
                services: [("foobar-backend".to_owned(), artifact("0.22.3.rc"))].into(),
                ..of("P2", "dev", Standing::Failed)
            },
            ReleaseSummary {
                superseded_by: Some("01GZEC5GJHFKWMK4Z5A1NM9DP1".into()),
                ..of("P3", "dev", Standing::Superseded)
            },
            ReleaseSummary {
                ready_to_deploy: true,
                waits_for: "promotion".into(),
                waits_for_whom: vec![],
                ..of("P4", "pre", Standing::Ready)
            },
            ReleaseSummary {
                decision: Some(DecisionView { verdict: Verdict::AcceptedWithWarnings, act: act() }),
                ..of("P5", "prod", Standing::Decided)
            },
        ]
    }

    #[test]
    fn stages_stand_side_by_side() {
        insta::assert_snapshot!(board(&releases(), &stages(), 120, false).join("\n"), @r"
        foo (foobar)
        dev (3)                              certified   pre (1)                              prod (1)
        ──────────────────────────────────   ─────────   ──────────────────────────────────   ──────────────────────────────────
        01GZEC5GJHFKWMK4Z5A1NM9DP1                       01GZEC5GJHFKWMK4Z5A1NM9DP4           01GZEC5GJHFKWMK4Z5A1NM9DP5
        foobar-backend 0.22.3.rc                         foobar-backend 0.22.3.rc             foobar-backend 0.22.3.rc
        foobar-web 1.4                                   foobar-web 1.4                       foobar-web 1.4
        Unverified (waiting)                             ready                                accepted_with_warnings
        waits for reports: ci-b                          waits for promotion
        assigned to testers                              ready to deploy

        01GZEC5GJHFKWMK4Z5A1NM9DP2
        foobar-backend 0.22.3.rc
        failed
        waits for retry, bypass, rollback
          or reject: sysadmins

        01GZEC5GJHFKWMK4Z5A1NM9DP3
        foobar-backend 0.22.3.rc
        foobar-web 1.4
        superseded
        01GZEC5GJHFKWMK4Z5A1NM9DP1 took
          its place
        ");
    }

    #[test]
    fn a_narrow_terminal_has_them_one_below_the_other() {
        insta::assert_snapshot!(board(&releases()[..2], &stages(), 40, false).join("\n"), @r"
        foo (foobar)
        ── dev (2)
          01GZEC5GJHFKWMK4Z5A1NM9DP1
            foobar-backend 0.22.3.rc
            foobar-web 1.4
            Unverified (waiting)
            waits for reports: ci-b
            assigned to testers
          01GZEC5GJHFKWMK4Z5A1NM9DP2
            foobar-backend 0.22.3.rc
            failed
            waits for retry, bypass, rollback or
              reject: sysadmins
        ");
    }

    #[test]
    fn a_log_has_one_in_a_line() {
        insta::assert_snapshot!(rows(&releases()[1..4]).join("\n"), @r"
        id                          pipeline  stage  state       services                                  waits for                                     remarks
        01GZEC5GJHFKWMK4Z5A1NM9DP2  foo       dev    failed      foobar-backend 0.22.3.rc                  retry, bypass, rollback or reject: sysadmins  -
        01GZEC5GJHFKWMK4Z5A1NM9DP3  foo       dev    superseded  foobar-backend 0.22.3.rc, foobar-web 1.4  -                                             01GZEC5GJHFKWMK4Z5A1NM9DP1 took its place
        01GZEC5GJHFKWMK4Z5A1NM9DP4  foo       pre    ready       foobar-backend 0.22.3.rc, foobar-web 1.4  promotion                                     ready to deploy
        ");
    }

    #[test]
    fn stages_that_are_not_known_come_last_and_nothing_is_wider_than_the_terminal() {
        let many: Vec<ReleaseSummary> = (0..1000)
            .map(|at| ReleaseSummary { stage: Some(["dev", "old", "pre"][at % 3].to_owned()), ..summary() })
            .collect();
        for width in [40, 99, 100, 103, 130, 300] {
            let lines = board(&many, &stages(), width, false);
            assert!(lines.iter().all(|line| chars(line) <= width), "{width}");
            assert_eq!(
                lines.iter().map(|line| line.matches("01GZEC5GJHFKWMK4Z5A1NM9DPF").count()).sum::<usize>(),
                1000
            );
        }
        let lines = board(&many, &stages(), 130, false);
        assert!(lines[1].starts_with("dev (334)") && lines[1].ends_with("old (333)"), "{}", lines[1]);
        // Colour changes nothing but colour.
        let painted = board(&releases(), &stages(), 120, true).join("\n");
        let sgr = regex::Regex::new("\x1b\\[[0-9;]*m").expect("a pattern");
        let bare: Vec<String> = sgr.replace_all(&painted, "").lines().map(|line| line.trim_end().to_owned()).collect();
        assert_eq!(bare, board(&releases(), &stages(), 120, false));
    }
}
