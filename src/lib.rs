//! Lockstep: a deployment dispatcher.

pub mod client;
pub mod clock;
pub mod config;
pub mod dispatch;
pub mod engine;
pub mod model;
pub mod pepper;
pub mod store;
pub mod wire;
