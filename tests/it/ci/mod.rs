//! The job in front of Lockstep: GitHub's action and GitLab's component, run as they stand in their files.

mod reader;
mod service;
mod simulated;
