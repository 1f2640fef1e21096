//! Output: exactly once, in order, whole characters, readable at any offset.

use lockstep::model::ids::JobId;
use lockstep::model::job::State;
use lockstep::model::lock::Held;
use lockstep::model::output::{Move, Position, lay_out, next_move, tail_place};
use lockstep::store::{Store, StoreError};

use super::{app, inventory, key, run, stored_app};
use crate::support::redis::RedisServer;

async fn write(store: &Store, held: &Held, at: Position, limit: u64, text: &str) -> Position {
    let mut write = lay_out(at, limit, text);
    write.after.raw = at.raw + text.len() as u64;
    // Twice each: as if the first reply had been lost.
    for _ in 0..2 {
        store.append(held, at, &write).await.expect("appended");
    }
    write.after
}

async fn whole(store: &Store, job: JobId) -> String {
    let (bytes, _) = store.output(job, 0, u64::MAX).await.expect("an answer").expect("a job");
    String::from_utf8(bytes).expect("whole characters")
}

#[tokio::test]
async fn output_is_appended_once_and_only_behind_what_is_there() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let held = run(&store, "a", "i").await;
    let counter = store.epoch();
    let start = Position::default();
    let first = write(&store, &held, start, 1 << 20, "one\n").await;
    let second = write(&store, &held, first, 1 << 20, "zwei €\n").await;
    for at in [
        start,
        first,
        Position { text: second.text + 1, head: second.head + 1, ..second },
        Position { raw: 99, ..second },
    ] {
        let mut third = lay_out(at, 1 << 20, "three\n");
        third.after.raw = at.raw + 100;
        let refused = store.append(&held, at, &third).await;
        assert!(matches!(refused, Err(StoreError::Stale(_))), "{at:?}: {refused:?}");
    }
    assert_eq!(whole(&store, held.job()).await, "one\nzwei €\n");
    assert_eq!(store.record(held.job()).await.expect("an answer").expect("a job").output, second);
    assert_eq!(store.epoch(), counter, "output is no change of state");
}

#[tokio::test]
async fn any_range_can_be_read() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let held = run(&store, "a", "i").await;
    let job = held.job();
    write(&store, &held, Position::default(), 1 << 20, "0123456789").await;
    for (offset, limit, expected) in [
        (0, 100, "0123456789"),
        (0, u64::MAX, "0123456789"),
        (3, 4, "3456"),
        (9, 1, "9"),
        (10, 5, ""),
        (11, 5, ""),
        (u64::MAX, u64::MAX, ""),
        (0, 0, ""),
        (5, 0, ""),
        (0, 1, "0"),
    ] {
        let read = store.output(job, offset, limit).await.expect("an answer");
        assert_eq!(read, Some((expected.as_bytes().to_vec(), false)), "{offset} {limit}");
        let read = store.range(None, job, offset, limit).await.expect("an answer");
        assert_eq!((read.bytes.as_slice(), read.length), (expected.as_bytes(), 10), "{offset} {limit}");
    }
    store.set_apps(&[stored_app("a", "i")], false).await.expect("an answer").expect("taken");
    let from = "192.0.2.1".parse().expect("an address");
    let read = store.range(Some((&app("a"), from)), job, 8, 100).await.expect("an answer");
    let brief = read.job.expect("a job");
    assert_eq!((brief.deployment_id, brief.inventory, brief.state), (app("a"), inventory("i"), State::Running));
    assert_eq!((read.bytes.as_slice(), read.door.app), (b"89".as_slice(), Some(stored_app("a", "i"))));
    let none = store.range(Some((&app("b"), from)), JobId::new(1, 1), 0, 100).await.expect("an answer");
    assert!(none.job.is_none() && none.door.app.is_none() && none.bytes.is_empty() && none.length == 0);
    assert_eq!(store.readable(job).await.expect("an answer"), 10);
    assert_eq!(store.output(JobId::new(1, 1), 0, 10).await.expect("an answer"), None);
    assert_eq!(store.readable(JobId::new(1, 1)).await.expect("an answer"), 0);
    let silent = run(&store, "a", "j").await;
    assert_eq!(store.output(silent.job(), 0, 10).await.expect("an answer"), Some((Vec::new(), false)));
}

#[tokio::test]
async fn beyond_the_cap_head_and_tail_are_put_together_at_the_end_piece_by_piece() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let held = run(&store, "a", "i").await;
    let (job, limit) = (held.job(), 64);
    let mut at = Position::default();
    let mut all = String::new();
    for n in 0..30 {
        let text = format!("line {n} äöü€\n");
        at = write(&store, &held, at, limit, &text).await;
        all.push_str(&text);
        assert_eq!(store.record(job).await.expect("an answer").expect("a job").output, at);
    }
    let head = whole(&store, job).await;
    assert!(all.starts_with(&head) && head.len() <= 32);

    let place = tail_place(at);
    let mut start = store.ring(job, place, 4.min(32 - place)).await.expect("an answer");
    if start.len() < 4 {
        start.extend(store.ring(job, 0, 4 - start.len() as u64).await.expect("an answer"));
    }
    let mut steps = 0;
    loop {
        let readable = store.readable(job).await.expect("an answer");
        steps += 1;
        // Each step twice: as if the first reply had been lost.
        match next_move(at, readable, &start) {
            Move::Done => break,
            Move::Announce(line) => {
                for _ in 0..2 {
                    store.announce(&held, readable, &line).await.expect("announced");
                }
                let stale = store.announce(&held, readable + 1, &line).await;
                assert!(matches!(stale, Err(StoreError::Stale(_))), "{stale:?}");
            }
            Move::Copy { at, count } => {
                // In the smallest pieces, which cut characters.
                let count = count.min(5);
                for _ in 0..2 {
                    store.move_ring(&held, readable, at, count).await.expect("moved");
                }
                let stale = store.move_ring(&held, readable, at, count + 1).await;
                assert!(matches!(stale, Err(StoreError::Stale(_))), "{stale:?}");
            }
        }
    }
    let text = whole(&store, job).await;
    let (notice, tail) = text[head.len() + 1..].split_once('\n').expect("an announcement");
    assert!(notice.contains("bytes of output were left out") && all.ends_with(tail) && tail.len() >= 29, "{text}");
    assert!(steps > 6);
    let beyond = store.move_ring(&held, text.len() as u64, 30, 10).await;
    assert!(matches!(beyond, Err(StoreError::Stale(_))), "the ring is not that long: {beyond:?}");
}

#[tokio::test]
async fn large_pieces_are_taken() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let held = run(&store, "a", "i").await;
    let limit = 4 << 20;
    let mut at = Position::default();
    let piece: String = (0..1u32 << 17).map(|n| format!("{n:07}\n")).collect();
    assert_eq!(piece.len(), 1 << 20);
    for _ in 0..5 {
        at = write(&store, &held, at, limit, &piece).await;
    }
    assert_eq!(whole(&store, held.job()).await, piece.repeat(2));
    assert_eq!(store.ring(held.job(), 0, 2 << 20).await.expect("an answer"), piece.repeat(2).as_bytes());
    let mut redis = server.connect().await;
    let length: u64 =
        redis::cmd("STRLEN").arg(key(&format!("ring:{}", held.job()))).query_async(&mut redis).await.expect("a length");
    assert_eq!(length, 2 << 20);
}
