//! Which order of a mode is the newest that counts: none before it is tried again.

use std::collections::BTreeMap;

use lockstep::model::order::{Order, OrderId, State, environment, file};
use lockstep::store::{OrderWrite, OrderWritten, Store};

use crate::support::redis::RedisServer;

const ENVIRONMENT: &str = "environment: shop\nmodes:\n  production:\n    hosts: [{name: one, address: one.shop.test, user: deploy, memory: 1000}]\n    proxy: {host: one}\n";
const ORDER: &str = "action: update\nenvironment_id: shop\nx:\n  domains: [shop.test]\n  services: [{id: a, path: /, repository: {url: 'https://git.test/a'}, type: static}]\n";

fn order(number: u64) -> Order {
    let id = OrderId { environment: "shop".parse().expect("a word"), number };
    let word = |text: &str| text.parse().expect("a word");
    Order::new(id, word("production"), file::read(ORDER).expect("an order"), word("ada"), 1)
}

async fn write(store: &Store, order: &Order, revision: u64, holds: bool) {
    let write = OrderWrite {
        order,
        revision,
        woken: store.order(&order.id).await.expect("an answer").map_or(0, |stored| stored.woken),
        as_read: false,
        due_ms: None,
        holds,
        deployed: None,
        retention_ms: 1_000_000,
        file: ORDER,
        idempotency: None,
        told: vec![],
        drawn: &BTreeMap::new(),
        jobs: &[],
    };
    let written = store.write_order(&write).await.expect("an answer");
    assert!(matches!(written, OrderWritten::Done(_)), "{written:?}");
}

#[tokio::test]
async fn an_order_that_begins_is_newer_than_all_before_it_whatever_was_ended_meanwhile() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let shop = environment::read(ENVIRONMENT).expect("an environment");
    store.set_environment(&shop, ENVIRONMENT, "ada").await.expect("registered");
    let newest = async || store.order_facts(&order(1), 4).await.expect("an answer").0.newest;

    let mut first = order(1);
    write(&store, &first, 0, false).await;
    (first.state, first.started_ms) = (State::Running, Some(2));
    write(&store, &first, 1, true).await;
    first.state = State::Failed;
    write(&store, &first, 2, false).await;
    assert_eq!(newest().await, 1);

    // Two more; the last is ended before anybody has looked at the one before.
    let (mut second, mut third) = (order(2), order(3));
    write(&store, &second, 0, false).await;
    write(&store, &third, 0, false).await;
    assert_eq!(newest().await, 3);
    third.state = State::Canceled;
    write(&store, &third, 1, false).await;
    assert_eq!(newest().await, 1, "what counts again is what has begun");
    (second.state, second.started_ms) = (State::Running, Some(3));
    write(&store, &second, 1, true).await;
    assert_eq!(newest().await, 2);
}
