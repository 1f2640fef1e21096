//! How long the client waits for what.

use std::time::Duration;

use crate::clock;

/// Bounds and paces. Tests set their own.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long a request for a deployment is repeated while the dispatcher can't be reached or isn't ready.
    pub asking: Duration,
    /// How long a job is followed without any usable answer.
    pub silence: Duration,
    /// How long one answer may take, where nothing else is said.
    pub call: Duration,
    /// How long the dispatcher may hold a question for output that is not there yet, in seconds.
    pub wait_s: u64,
    /// The first pause after trouble; it doubles up to `longest_pause`.
    pub first_pause: Duration,
    /// The longest pause after trouble, unless the dispatcher asks for a longer one.
    pub longest_pause: Duration,
    /// How often a job is looked at while somebody watches its progress.
    pub look: Duration,
    /// After so much silence a log in CI is told that the job is still going on.
    pub reassure: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            asking: Duration::from_secs(30),
            silence: Duration::from_secs(5 * 60),
            call: Duration::from_secs(15),
            wait_s: 25,
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(5),
            look: Duration::from_secs(2),
            reassure: Duration::from_secs(60),
        }
    }
}

impl Patience {
    /// The pause before attempt `attempt` (counted from 0) is repeated: doubled each time, and up to a half shorter at
    /// random, so that those who lost the same dispatcher do not come back all at once.
    pub(super) fn pause(&self, attempt: u32) -> Duration {
        let full = self.first_pause.saturating_mul(1 << attempt.min(16)).min(self.longest_pause);
        let [random] = clock::random::<1>();
        full - full.mul_f64(f64::from(random) / 512.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let patience = Patience::default();
        for (attempt, full) in [(0, 100), (1, 200), (3, 800), (6, 5000), (1000, 5000)] {
            let pause = patience.pause(attempt);
            let full = Duration::from_millis(full);
            assert!(pause <= full && pause >= full / 2, "{attempt}: {pause:?}");
        }
    }
}
