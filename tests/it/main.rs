//! Integration tests: one binary, against a real Redis, a real engine, and real Ansible over SSH.

mod abuse;
mod api;
mod ci;
mod cli;
mod cli_releases;
mod config;
mod crash;
mod dispatch;
mod doctor;
mod documents;
mod e2e;
mod engine;
mod examples;
mod existing;
mod faults;
mod handover;
mod oidc;
mod orders_files;
mod pipelines;
mod protocol;
mod releases;
mod schema;
mod self_deploy;
mod serve;
mod store;
mod support;
