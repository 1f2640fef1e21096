//! The pure rules: names, apps, tokens, job states, events, webhooks, pipelines, releases, orders, the lock and its fence, output ranges, and what to do with a job.
//!
//! Nothing here does I/O, reads a clock or draws a random number: time and randomness are arguments. Whatever a rule
//! decides is carried out by `store`, `engine` and `dispatch`; a rule never knows how.

pub mod app;
pub mod event;
pub mod ids;
pub mod job;
pub mod lock;
pub mod mask;
pub mod mistakes;
pub mod oidc;
pub mod order;
pub mod output;
pub mod pipeline;
pub mod release;
pub mod settle;
pub mod text;
pub mod token;
pub mod vars;
pub mod webhook;
