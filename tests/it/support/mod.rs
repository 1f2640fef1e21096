//! What tests stand on: servers started for them, and simulators of faults.

pub(crate) mod proxy;
pub(crate) mod redis;
pub mod scripted;
