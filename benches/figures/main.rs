//! `make bench`: the figures, each beside its limit, taken in one run on one machine. Not a test: it prints, and judges nothing
//! but whether the work was done right.

mod jobs;
mod limit;
mod releases;
mod requests;
#[expect(dead_code, reason = "what the integration tests stand on; not all of it is needed here")]
#[path = "../../tests/it/support/mod.rs"]
mod support;

use std::fmt::Display;

/// One line of the table.
pub(crate) fn row(what: &str, limit: impl Display, here: impl Display, ratio: impl Display, goal: &str) {
    println!("| {what:<62} | {limit:>14} | {here:>14} | {ratio:>8} | {goal:<14} |");
}

/// The value in the middle.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value at a share of the way from the smallest to the largest.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let at = ((values.len() - 1) as f64 * share).round() as usize;
    values[at]
}

fn main() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("the first provider");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    if arguments.first().is_some_and(|first| first == "limit") {
        return runtime.block_on(limit::serve(&arguments[1..]));
    }
    let only = arguments.iter().find(|argument| !argument.starts_with('-'));
    runtime.block_on(async {
        println!("| {:<62} | {:>14} | {:>14} | {:>8} | {:<14} |", "figure", "limit", "Lockstep", "ratio", "goal");
        println!("|{}|{}:|{}:|{}:|{}|", "-".repeat(64), "-".repeat(15), "-".repeat(15), "-".repeat(9), "-".repeat(16));
        let wanted = |part: &str| only.is_none_or(|only| part.starts_with(only.as_str()));
        if wanted("requests") {
            requests::measure().await;
        }
        jobs::measure(wanted).await;
        if wanted("releases") {
            releases::measure().await;
        }
    });
}
