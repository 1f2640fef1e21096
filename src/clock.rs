//! Where time and randomness enter. Everything else takes them as arguments, which `clippy.toml` enforces.
//!
//! Deadlines and ages are measured by Redis' clock or by tokio's; the wall clock of this machine only stamps job ids and logs.

use crate::model::ids::{JobId, ReleaseId};

/// Milliseconds since 1970 by this machine's wall clock.
#[expect(clippy::disallowed_methods, reason = "this is the place where the clock enters")]
pub fn wall_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Random bytes from the operating system's generator.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system's generator never fails once it is seeded");
    bytes
}

/// A fresh job id.
pub fn draw_job_id() -> JobId {
    JobId::new(wall_ms(), u128::from_le_bytes(random()))
}

/// A fresh id for a release.
pub fn draw_release_id() -> ReleaseId {
    ReleaseId::new(wall_ms(), u128::from_le_bytes(random()))
}

/// A fresh random name of 32 hexadecimal digits.
pub fn draw_name() -> String {
    random::<16>().iter().map(|byte| format!("{byte:02x}")).collect()
}
