//! Lockstep: a deployment dispatcher. One inventory, one container, nothing lost.
//!
//! Innermost first; each part may use those above it, none below: [`model`] (pure rules), [`wire`] (what goes over HTTP),
//! [`pepper`] (keys), [`egress`] (calls to addresses that others name), [`oidc`] (ID tokens of a CI), [`store`] (Redis),
//! [`engine`] (containers), [`dispatch`] (the core), [`webhooks`] (events on their way
//! out), [`api`] (HTTP), [`client`] (the CLI's side). `ARCHITECTURE.md` tells the whole.

pub mod api;
pub mod client;
pub mod clock;
pub mod config;
pub mod dispatch;
pub mod doctor;
pub mod egress;
pub mod engine;
pub mod handover;
pub mod metrics;
pub mod model;
pub mod oidc;
pub mod pepper;
pub mod repositories;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod webhooks;
pub mod wire;
