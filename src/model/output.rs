//! Output: from the bytes of a container to the text that is kept, and where each byte of it goes.
//!
//! ```text
//!  container's bytes ──▶ mask ──▶ UTF-8 ──▶ text ──┬─▶ head: the first half of the cap, readable at once
//!        raw offset                  text offset   └─▶ ring: the last half of the cap, readable at the end
//! ```
//!
//! The text only ever grows at its end. While the job runs, what can be read is the head. At its end, if the head was
//! filled, the announcement of what was left out and the ring are moved behind it, piece by piece: each piece's place
//! follows from how much is there already, so that the move can be interrupted and taken up again.
//!
//! Two offsets are recorded with each write, in one step: how many of the container's bytes are *final* (`raw`), and how
//! much text they made (`text`). Reading the container's log again from `raw` continues the text at `text` exactly.

use super::mask::Masker;

/// The smallest cap that can be configured, in bytes.
pub const LIMIT_MIN: u64 = 16 * 1024;
/// The largest cap that can be configured, in bytes: Redis holds at most 512 MiB in one value.
pub const LIMIT_MAX: u64 = 256 * 1024 * 1024;
/// The most bytes that are moved from ring to head in one step at the end of a job.
pub const MOVE_STEP: u64 = 1024 * 1024;

/// Where taking in a job's output stands, as recorded with the last write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Bytes of the container's log that are final.
    pub raw: u64,
    /// Bytes of text made from them, kept or not.
    pub text: u64,
    /// Bytes of that text in the head. Less than `text` means: the head is closed.
    pub head: u64,
    /// The cap, as it was configured at the first write: the ring is laid out by it, so the job keeps it. 0: nothing is written yet.
    pub limit: u64,
}

/// Turns the container's bytes into text: masks, then makes it UTF-8, holding back what is not final.
pub struct Intake {
    masker: Masker,
    masked: Vec<u8>,
    raw: u64,
}

impl Intake {
    /// Goes on at `raw` bytes of the container's log.
    pub fn new(masker: Masker, raw: u64) -> Self {
        Self { masker, masked: Vec::new(), raw }
    }

    /// Bytes of the container's log whose text has been given out.
    pub fn raw(&self) -> u64 {
        // An incomplete sequence is at most three bytes, and bytes that were masked are never part of one.
        self.raw - self.masker.pending() - self.masked.len() as u64
    }

    /// Takes bytes in; the text that is final is appended to `text`.
    pub fn push(&mut self, chunk: &[u8], text: &mut String) {
        self.raw += chunk.len() as u64;
        self.masker.push(chunk, &mut self.masked);
        self.decode(text);
    }

    /// The end of the log: everything becomes final.
    pub fn finish(&mut self, text: &mut String) {
        self.masker.finish(&mut self.masked);
        self.decode(text);
        if !self.masked.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            self.masked.clear();
        }
    }

    fn decode(&mut self, text: &mut String) {
        let mut rest = self.masked.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    match error.error_len() {
                        Some(bad) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &after[bad..];
                            continue;
                        }
                        None => rest = after,
                    }
                }
            }
            break;
        }
        let held = rest.len();
        let from = self.masked.len() - held;
        self.masked.drain(..from);
    }
}

/// Where the bytes of one write go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write<'a> {
    /// To be appended to the head.
    pub head: &'a str,
    /// To be written into the ring, at these places of it.
    pub ring: Vec<(u64, &'a [u8])>,
    /// Where things stand after the write, but for `raw`.
    pub after: Position,
}

/// Lays `text` out behind what is there. `limit` is the cap for a job that has none yet; half of it is the head's, half the ring's.
pub fn lay_out(at: Position, limit: u64, text: &str) -> Write<'_> {
    let limit = if at.limit == 0 { limit } else { at.limit };
    let half = limit / 2;
    let room = if at.text > at.head { 0 } else { half - at.head.min(half) };
    let cut = floor_char_boundary(text, room);
    let (head, rest) = text.split_at(cut);
    let after = Position { raw: at.raw, text: at.text + text.len() as u64, head: at.head + head.len() as u64, limit };
    // Of a write longer than the ring only the end survives in it.
    let lost = rest.len().saturating_sub(usize::try_from(half).unwrap_or(usize::MAX));
    let mut bytes = &rest.as_bytes()[lost..];
    let mut place = after.text - after.head - bytes.len() as u64;
    let mut ring = Vec::new();
    while !bytes.is_empty() {
        let at = place % half;
        let count = bytes.len().min(usize::try_from(half - at).unwrap_or(usize::MAX));
        ring.push((at, &bytes[..count]));
        place += count as u64;
        bytes = &bytes[count..];
    }
    Write { head, ring, after }
}

fn floor_char_boundary(text: &str, at: u64) -> usize {
    let mut at = usize::try_from(at).unwrap_or(usize::MAX).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The next piece of the move that completes the text at the end of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// Append this announcement to the head.
    Announce(String),
    /// Append so many bytes of the ring, from this place of it.
    Copy {
        /// Place in the ring.
        at: u64,
        /// Bytes, at least 1.
        count: u64,
    },
    /// The text is complete.
    Done,
}

/// What is to be moved next, when `readable` bytes are readable already. `tail_start` holds the first bytes of what the ring
/// kept (see [`tail_place`]), by which a character cut in two is found; it may be shorter than four bytes only if the tail is.
pub fn next_move(at: Position, readable: u64, tail_start: &[u8]) -> Move {
    let half = at.limit / 2;
    let beyond = at.text - at.head;
    if beyond == 0 {
        return Move::Done;
    }
    let overflow = beyond.saturating_sub(half);
    let (omitted, announcement) = if overflow == 0 {
        (0, String::new())
    } else {
        let cut = tail_start.iter().take(3).take_while(|byte| **byte & 0xC0 == 0x80).count() as u64;
        let omitted = overflow + cut;
        (omitted, announcement(omitted, at.limit))
    };
    let moved = readable - at.head;
    if moved < announcement.len() as u64 {
        return Move::Announce(announcement);
    }
    let place = omitted + (moved - announcement.len() as u64);
    if place >= beyond {
        return Move::Done;
    }
    Move::Copy { at: place % half, count: (beyond - place).min(half - place % half).min(MOVE_STEP) }
}

/// Place in the ring at which the kept tail begins.
pub fn tail_place(at: Position) -> u64 {
    let half = (at.limit / 2).max(1);
    (at.text - at.head).saturating_sub(half) % half
}

/// The line that stands where output was left out.
fn announcement(omitted: u64, limit: u64) -> String {
    format!("\n[lockstep: {omitted} bytes of output were left out here; the limit is {limit} bytes]\n")
}

/// Text that stands where the engine's log could not be read any more, although its container has ended.
pub const UNREAD: &str = "\n[lockstep: the rest of the output is missing, because the engine could not read its log]\n";

/// Text shown in place of output whose secrets are not known any more and so could not be masked.
pub const WITHHELD: &str =
    "[lockstep: the output is withheld, because the secrets to be masked in it could not be read]\n";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Head, ring and position of one job, as the store keeps them.
    #[derive(Default)]
    struct Kept {
        head: Vec<u8>,
        ring: Vec<u8>,
        at: Position,
    }

    impl Kept {
        fn write(&mut self, limit: u64, text: &str) {
            let write = lay_out(self.at, limit, text);
            self.head.extend_from_slice(write.head.as_bytes());
            for (at, bytes) in &write.ring {
                let at = usize::try_from(*at).expect("small");
                self.ring.resize(self.ring.len().max(at + bytes.len()), 0);
                self.ring[at..at + bytes.len()].copy_from_slice(bytes);
            }
            self.at = write.after;
        }

        fn complete(&mut self) -> String {
            let start = usize::try_from(tail_place(self.at)).expect("small");
            let tail: Vec<u8> = (0..4)
                .filter_map(|i| {
                    let half = usize::try_from((self.at.limit / 2).max(1)).expect("small");
                    self.ring.get((start + i) % half).copied()
                })
                .collect();
            loop {
                match next_move(self.at, self.head.len() as u64, &tail) {
                    Move::Announce(line) => self.head.extend_from_slice(line.as_bytes()),
                    Move::Copy { at, count } => {
                        let (at, count) = (usize::try_from(at).expect("small"), usize::try_from(count).expect("small"));
                        self.head.extend_from_slice(&self.ring[at..at + count]);
                    }
                    Move::Done => return String::from_utf8(self.head.clone()).expect("whole characters"),
                }
            }
        }
    }

    #[test]
    fn bytes_that_are_no_utf8_become_replacement_characters() {
        let mut intake = Intake::new(Masker::new([]), 0);
        let mut text = String::new();
        intake.push(b"a\xffb\xe2\x82", &mut text);
        assert_eq!((text.as_str(), intake.raw()), ("a\u{fffd}b", 3));
        intake.push(b"\xac!\xe2", &mut text);
        assert_eq!((text.as_str(), intake.raw()), ("a\u{fffd}b\u{20ac}!", 7));
        intake.finish(&mut text);
        assert_eq!((text.as_str(), intake.raw()), ("a\u{fffd}b\u{20ac}!\u{fffd}", 8));
    }

    proptest! {
        #[test]
        fn reading_again_from_raw_continues_the_text(
            bytes in prop::collection::vec(prop_oneof![Just(b's'), Just(b'e'), Just(0xe2u8), Just(0x82), Just(0xac), Just(b'x')], 0..60),
            cut in 0usize..60,
        ) {
            let cut = cut.min(bytes.len());
            let mut whole = String::new();
            let mut intake = Intake::new(Masker::new(["sese"]), 0);
            intake.push(&bytes, &mut whole);
            intake.finish(&mut whole);

            let mut text = String::new();
            let mut first = Intake::new(Masker::new(["sese"]), 0);
            first.push(&bytes[..cut], &mut text);
            let raw = first.raw();
            let mut second = Intake::new(Masker::new(["sese"]), raw);
            second.push(&bytes[usize::try_from(raw).expect("small")..], &mut text);
            second.finish(&mut text);
            prop_assert_eq!(text, whole);
            prop_assert_eq!(second.raw(), bytes.len() as u64);
        }

        #[test]
        fn below_the_cap_nothing_is_left_out_and_above_it_head_and_tail_stay(
            parts in prop::collection::vec("[a-zäö€]{0,30}", 0..30), half in 16u64..120, later in 16u64..120,
        ) {
            let limit = half * 2;
            let mut kept = Kept::default();
            let mut all = String::new();
            let mut readable = 0;
            for (index, part) in parts.iter().enumerate() {
                // What is configured later is for later jobs.
                kept.write(if index == 0 { limit } else { later * 2 }, part);
                all.push_str(part);
                prop_assert!(kept.head.len() >= readable && kept.head.len() as u64 <= half);
                readable = kept.head.len();
            }
            let text = kept.complete();
            let head = usize::try_from(kept.at.head).expect("small");
            prop_assert_eq!(kept.at.text, all.len() as u64);
            prop_assert_eq!(&text[..head], &all[..head]);
            if (all.len() - head) as u64 <= half {
                prop_assert_eq!(text, all);
            } else {
                let (notice, tail) = text[head + 1..].split_once('\n').expect("an announcement");
                prop_assert!(all.ends_with(tail));
                let omitted = all.len() - head - tail.len();
                prop_assert!(notice.contains(&format!(" {omitted} bytes")), "{}", notice);
                prop_assert!(tail.len() as u64 <= half && tail.len() as u64 + 3 >= half);
            }
        }
    }
}
