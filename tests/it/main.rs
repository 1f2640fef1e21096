//! Integration tests: one binary, against a real Redis, a real engine, and real Ansible over SSH.

mod dispatch;
mod e2e;
mod support;
