//! What tests stand on: servers started for them, and simulators of faults.

pub mod redis;
pub mod scripted;
