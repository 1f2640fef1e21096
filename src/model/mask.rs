//! Masking: every byte of the output that belongs to an occurrence of a secret is replaced, wherever chunks are cut.
//!
//! Occurrences that overlap form one run, and a run is shown as `***`. What is at the end of the bytes seen so far and
//! might still become a secret is held back: it is *pending*. Bytes before the pending ones are final, and a fresh masker
//! that starts at the first pending byte gives the same text, which is what lets a job's output be resumed after a restart.

use aho_corasick::AhoCorasick;

/// What stands in the output for a run of secret bytes.
pub const MASK: &[u8] = b"***";
/// A run that grows longer than this many bytes is no longer kept in memory; only its length is.
const RUN_KEPT: usize = 64 * 1024;
/// Lines of a secret of several lines are masked one by one as well, if they have at least this many bytes.
const LINE_MIN: usize = 8;

/// Replaces secrets in a stream of bytes.
pub struct Masker {
    /// None: there is nothing to mask.
    finder: Option<AhoCorasick>,
    patterns: Vec<Pattern>,
    /// Bytes not given out yet.
    buffer: Vec<u8>,
    /// So many bytes at the start of `buffer` belong to a run that began before them.
    covered: usize,
    /// Bytes of that run that came before `buffer` and were dropped from memory.
    dropped: u64,
}

/// A secret with its border table (Knuth, Morris, Pratt), to find what at the end of the buffer may be its beginning.
struct Pattern {
    bytes: Vec<u8>,
    border: Vec<usize>,
}

impl Pattern {
    fn new(bytes: Vec<u8>) -> Self {
        let mut border = vec![0; bytes.len()];
        let mut length = 0;
        for i in 1..bytes.len() {
            while length > 0 && bytes[i] != bytes[length] {
                length = border[length - 1];
            }
            if bytes[i] == bytes[length] {
                length += 1;
            }
            border[i] = length;
        }
        Self { bytes, border }
    }

    /// Length of the longest end of `text` that is a beginning of this pattern, but not all of it.
    fn begun_at_end(&self, text: &[u8]) -> usize {
        let tail = &text[text.len().saturating_sub(self.bytes.len().saturating_sub(1))..];
        let mut length = 0;
        for &byte in tail {
            while length > 0 && byte != self.bytes[length] {
                length = self.border[length - 1];
            }
            if byte == self.bytes[length] {
                length += 1;
            }
            if length == self.bytes.len() {
                length = self.border[length - 1];
            }
        }
        length
    }
}

impl Masker {
    /// A masker for these secrets, each also as JSON writes it and, where it has several lines, line by line. Empty ones
    /// are passed over.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut patterns: Vec<Vec<u8>> = Vec::new();
        for secret in secrets {
            patterns.push(secret.as_bytes().to_vec());
            if let Ok(quoted) = serde_json::to_string(secret) {
                patterns.push(quoted.as_bytes()[1..quoted.len() - 1].to_vec());
            }
            if secret.contains('\n') {
                let lines = secret.lines().map(str::trim).filter(|line| line.len() >= LINE_MIN);
                patterns.extend(lines.map(|line| line.as_bytes().to_vec()));
            }
        }
        patterns.retain(|pattern| !pattern.is_empty());
        patterns.sort_unstable();
        patterns.dedup();
        let finder = (!patterns.is_empty()).then(|| AhoCorasick::new(&patterns).ok()).flatten();
        Self {
            // Without an automaton nothing could be masked; secrets are bounded in size and number, so there always is one.
            patterns: patterns.into_iter().map(Pattern::new).collect(),
            finder,
            buffer: Vec::new(),
            covered: 0,
            dropped: 0,
        }
    }

    /// How many bytes taken in are not final yet.
    pub fn pending(&self) -> u64 {
        self.dropped + self.buffer.len() as u64
    }

    /// Takes bytes in; what is final is appended to `out`.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        if self.finder.is_none() {
            out.extend_from_slice(chunk);
            return;
        }
        self.buffer.extend_from_slice(chunk);
        let hold = self.patterns.iter().map(|p| p.begun_at_end(&self.buffer)).max().unwrap_or(0);
        self.give(self.buffer.len() - hold, out);
    }

    /// The end of the stream: everything pending becomes final.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if self.finder.is_some() {
            self.give(self.buffer.len(), out);
        }
    }

    /// Gives out what lies before `limit`, but for a run that reaches beyond it.
    fn give(&mut self, limit: usize, out: &mut Vec<u8>) {
        let mut given = 0;
        for (start, end) in self.runs() {
            if start >= limit {
                break;
            }
            out.extend_from_slice(&self.buffer[given..start]);
            if end > limit {
                return self.keep_open(start, end, limit);
            }
            out.extend_from_slice(MASK);
            given = end;
        }
        out.extend_from_slice(&self.buffer[given..limit]);
        self.buffer.drain(..limit);
        self.covered = 0;
        self.dropped = 0;
    }

    /// The maximal runs of overlapping occurrences in the buffer, in order.
    fn runs(&self) -> Vec<(usize, usize)> {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        runs.extend((self.covered > 0).then_some((0, self.covered)));
        let found = self.finder.iter().flat_map(|finder| finder.find_overlapping_iter(&self.buffer));
        // The search reports occurrences by where they end; runs are made in order of where they begin.
        let mut found: Vec<_> = found.map(|m| (m.start(), m.end())).collect();
        found.sort_unstable();
        for (start, end) in found {
            match runs.last_mut() {
                Some(run) if start < run.1 => run.1 = run.1.max(end),
                _ => runs.push((start, end)),
            }
        }
        runs
    }

    /// Keeps the run that begins at `start` and reaches beyond `limit` pending.
    fn keep_open(&mut self, start: usize, end: usize, limit: usize) {
        self.buffer.drain(..start);
        self.covered = end - start;
        // Only the bytes from `limit` on can begin another occurrence; of the rest it is enough to know that it is covered.
        if limit - start > RUN_KEPT {
            self.buffer.drain(..limit - start);
            self.dropped += (limit - start) as u64;
            self.covered = end - limit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The rule, written as plainly as can be: cover, then replace maximal runs of overlapping occurrences.
    fn oracle(secrets: &[String], text: &[u8]) -> Vec<u8> {
        let mut found: Vec<(usize, usize)> = Vec::new();
        for secret in secrets {
            for start in 0..text.len() {
                if text[start..].starts_with(secret.as_bytes()) {
                    found.push((start, start + secret.len()));
                }
            }
        }
        found.sort_unstable();
        let mut out = Vec::new();
        let mut at = 0;
        let mut i = 0;
        while i < found.len() {
            let (start, mut end) = found[i];
            while i < found.len() && found[i].0 < end {
                end = end.max(found[i].1);
                i += 1;
            }
            out.extend_from_slice(&text[at..start]);
            out.extend_from_slice(MASK);
            at = end;
        }
        out.extend_from_slice(&text[at..]);
        out
    }

    fn mask(secrets: &[String], chunks: &[&[u8]]) -> Vec<u8> {
        let mut masker = Masker::new(secrets.iter().map(String::as_str));
        let mut out = Vec::new();
        for chunk in chunks {
            masker.push(chunk, &mut out);
        }
        masker.finish(&mut out);
        out
    }

    #[test]
    fn a_secret_across_two_chunks_is_masked() {
        let secrets = ["secret123".to_owned()];
        assert_eq!(mask(&secrets, &[b"x sec", b"ret", b"123 y"]), b"x *** y");
        assert_eq!(mask(&secrets, &[b"x secret12", b"4"]), b"x secret124");
    }

    #[test]
    fn what_may_be_the_beginning_of_a_secret_is_held_back() {
        let mut masker = Masker::new(["secret123"]);
        let mut out = Vec::new();
        masker.push(b"a sec", &mut out);
        assert_eq!((out.as_slice(), masker.pending()), (b"a ".as_slice(), 3));
        masker.push(b"ond\n", &mut out);
        assert_eq!((out.as_slice(), masker.pending()), (b"a second\n".as_slice(), 0));
    }

    #[test]
    fn json_forms_and_lines_of_a_secret_are_masked_too() {
        let secrets = ["say \"hush\"".to_owned()];
        assert_eq!(mask(&secrets, &[br#"{"v": "say \"hush\""}"#]), br#"{"v": "***"}"#);
        let key = ["-----BEGIN-----\nAAAABBBBCCCC\n-----END-----\n".to_owned()];
        assert_eq!(mask(&key, &[b"line AAAABBBBCCCC\n"]), b"line ***\n");
    }

    #[test]
    fn a_run_without_end_does_not_fill_memory() {
        let mut masker = Masker::new(["aaaa"]);
        let mut out = Vec::new();
        for _ in 0..64 {
            masker.push(&[b'a'; 16 * 1024], &mut out);
            assert!(masker.buffer.len() <= RUN_KEPT + 16 * 1024 + 8);
        }
        assert_eq!(masker.pending(), 64 * 16 * 1024);
        masker.push(b"b", &mut out);
        assert_eq!(out, b"***b");
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            secrets in prop::collection::vec("[ab]{1,4}", 1..4),
            text in "[abc]{0,40}",
            cuts in prop::collection::vec(0usize..40, 0..5),
        ) {
            let text = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(text.len())).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut at = 0;
            for cut in cuts {
                chunks.push(&text[at..cut]);
                at = cut;
            }
            chunks.push(&text[at..]);
            prop_assert_eq!(mask(&secrets, &chunks), oracle(&secrets, text));
        }

        #[test]
        fn a_fresh_masker_goes_on_from_the_first_pending_byte(
            secrets in prop::collection::vec("[ab]{1,4}", 1..4), text in "[abc]{0,40}", cut in 0usize..40,
        ) {
            let text = text.as_bytes();
            let cut = cut.min(text.len());
            let mut out = Vec::new();
            let mut first = Masker::new(secrets.iter().map(String::as_str));
            first.push(&text[..cut], &mut out);
            let resume = cut - usize::try_from(first.pending()).expect("small");
            let mut second = Masker::new(secrets.iter().map(String::as_str));
            second.push(&text[resume..], &mut out);
            second.finish(&mut out);
            prop_assert_eq!(out, oracle(&secrets, text));
        }
    }
}
