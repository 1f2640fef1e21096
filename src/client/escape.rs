//! What a job prints may colour a terminal and nothing else.
//!
//! The output comes from the hosts that are deployed to, so it is not ours to trust: a title that is set, a clipboard that
//! is written, a line that is overwritten with "ok" are all done by escape sequences. Everything but SGR (colour, bold, …)
//! is taken out, in its seven- and its eight-bit form, wherever chunks are cut. What remains is text, tabs and newlines.
//!
//! ```text
//!            ESC                  [                digits ; :            m
//!  Ground ────────▶ Escape ─────────────▶ Csi ─────────────────▶ Csi ─────────▶ SGR is kept
//!    ▲                │ ] P X ^ _          └── any other final ──────────────▶ dropped
//!    │                ▼
//!    └── BEL, ST ── Text (of OSC, DCS, SOS, PM, APC): dropped
//! ```
//!
//! A newline ends whatever was begun, so that a sequence that is never finished eats at most the rest of its line.

/// Parameters of an SGR that is kept; longer ones are nobody's colour.
const PARAMETERS_MAX: usize = 64;

/// Takes everything out of a stream but text and, where wanted, colour.
#[derive(Debug)]
pub struct Filter {
    colour: bool,
    state: State,
    /// The start of a character whose end has not come yet.
    partial: Vec<u8>,
    /// A carriage return was seen: a newline follows, or it becomes one, because it could overwrite its line.
    returned: bool,
    /// Colour is on, as far as was let through.
    coloured: bool,
    /// Nothing stands in the line so far.
    line_start: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Text.
    Ground,
    /// After ESC.
    Escape,
    /// After ESC and an intermediate character: one final character follows.
    Intermediate,
    /// After CSI; none: this one will not be kept.
    Csi(Option<String>),
    /// In the text of a control string.
    Text,
    /// In the text of a control string, after ESC, which may begin its end.
    TextEscape,
}

impl Filter {
    /// A filter that keeps colour or takes that out too.
    pub fn new(colour: bool) -> Self {
        Self { colour, state: State::Ground, partial: Vec::new(), returned: false, coloured: false, line_start: true }
    }

    /// Takes bytes in and appends what may be shown. Bytes that are no UTF-8 become U+FFFD.
    pub fn push(&mut self, chunk: &[u8], shown: &mut String) {
        let mut joined = std::mem::take(&mut self.partial);
        let bytes = if joined.is_empty() {
            chunk
        } else {
            joined.extend_from_slice(chunk);
            &joined
        };
        for chunk in bytes.utf8_chunks() {
            for character in chunk.valid().chars() {
                self.take(character, shown);
            }
            // Only the last chunk can be a beginning: one that is followed by more bytes is known to be wrong.
            let invalid = chunk.invalid();
            let at_end = invalid.as_ptr_range().end == bytes.as_ptr_range().end;
            if at_end && could_continue(invalid) {
                self.partial = invalid.to_vec();
            } else if !invalid.is_empty() {
                self.take(char::REPLACEMENT_CHARACTER, shown);
            }
        }
    }

    /// The end: what was held back is given out, and colour is switched off.
    pub fn finish(&mut self, shown: &mut String) {
        if !self.partial.is_empty() {
            self.partial.clear();
            self.take(char::REPLACEMENT_CHARACTER, shown);
        }
        if std::mem::take(&mut self.returned) {
            self.show('\n', shown);
        }
        self.state = State::Ground;
        if std::mem::take(&mut self.coloured) {
            shown.push_str("\x1b[0m");
        }
    }

    /// Whether text that is put here would take the output's colour.
    pub fn is_coloured(&self) -> bool {
        self.coloured
    }

    /// Whether nothing stands in the present line.
    pub fn at_line_start(&self) -> bool {
        self.line_start
    }

    fn take(&mut self, character: char, shown: &mut String) {
        if std::mem::take(&mut self.returned) && !matches!(character, '\n' | '\r') {
            self.show('\n', shown);
        }
        self.state = match (std::mem::replace(&mut self.state, State::Ground), character) {
            (_, '\n') => {
                self.show('\n', shown);
                State::Ground
            }
            // CAN and SUB abort a sequence.
            (_, '\x18' | '\x1a') => State::Ground,
            (State::Text, '\x1b') => State::TextEscape,
            (State::Text | State::TextEscape, '\x07' | '\u{9c}') | (State::TextEscape, '\\') => State::Ground,
            (State::Text, _) => State::Text,
            (_, '\x1b') => State::Escape,
            (_, '\u{9b}') | (State::Escape | State::TextEscape, '[') => State::Csi(Some(String::new())),
            (_, '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}')
            | (State::Escape | State::TextEscape, ']' | 'P' | 'X' | '^' | '_') => State::Text,
            (State::Escape | State::TextEscape | State::Intermediate, ' '..='/') => State::Intermediate,
            (State::Escape | State::TextEscape | State::Intermediate, '0'..='~') => State::Ground,
            (State::Csi(kept), '0'..='9' | ';' | ':') => State::Csi(kept.and_then(|mut parameters| {
                parameters.push(character);
                (parameters.len() <= PARAMETERS_MAX).then_some(parameters)
            })),
            (State::Csi(_), ' '..='?') => State::Csi(None),
            (State::Csi(Some(parameters)), 'm') => {
                self.sgr(&parameters, shown);
                State::Ground
            }
            (State::Csi(_), '@'..='~') => State::Ground,
            (State::Ground | State::Escape | State::TextEscape | State::Intermediate | State::Csi(_), _) => {
                if character == '\r' {
                    self.returned = true;
                } else if character == '\t' || !character.is_control() {
                    self.show(character, shown);
                }
                State::Ground
            }
        };
    }

    fn show(&mut self, character: char, shown: &mut String) {
        self.line_start = character == '\n';
        shown.push(character);
    }

    fn sgr(&mut self, parameters: &str, shown: &mut String) {
        if self.colour {
            shown.push_str("\x1b[");
            shown.push_str(parameters);
            shown.push('m');
            // Other spellings of a reset count as colour: a reset too many does no harm.
            self.coloured = !matches!(parameters, "" | "0" | "00");
        }
    }
}

/// Whether these bytes, which are no character, are the beginning of one.
fn could_continue(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// A text of the server for one line of ours: no control characters, nothing that moves or colours.
pub(super) fn plain(text: &str) -> String {
    lines(text).join(" ")
}

/// A text of the server as lines of ours.
pub(super) fn lines(text: &str) -> Vec<String> {
    let mut filter = Filter::new(false);
    let mut shown = String::with_capacity(text.len());
    filter.push(text.as_bytes(), &mut shown);
    filter.finish(&mut shown);
    shown.lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filtered<'a>(colour: bool, chunks: impl IntoIterator<Item = &'a [u8]>) -> String {
        let mut filter = Filter::new(colour);
        let mut shown = String::new();
        for chunk in chunks {
            filter.push(chunk, &mut shown);
        }
        filter.finish(&mut shown);
        shown
    }

    #[test]
    fn only_colour_is_left() {
        for (given, with, without) in [
            ("plain\ttext\n", "plain\ttext\n", "plain\ttext\n"),
            ("\x1b[31mred\x1b[0m\n", "\x1b[31mred\x1b[0m\n", "red\n"),
            ("\x1b[38:2::1:2:3mx\x1b[m", "\x1b[38:2::1:2:3mx\x1b[m", "x"),
            ("\u{9b}1mx", "\x1b[1mx\x1b[0m", "x"),
            ("\x1b[31mred", "\x1b[31mred\x1b[0m", "red"),
            ("a\x1b]0;title\x07b", "ab", "ab"),
            ("a\x1b]52;c;aGk=\x1b\\b", "ab", "ab"),
            ("a\x1b]8;;https://x\x1b\\link\x1b]8;;\x1b\\b", "alinkb", "alinkb"),
            ("a\u{9d}0;title\u{9c}b", "ab", "ab"),
            ("a\x1bPq#0\x1b\\b\x1bXs\x1b\\c\x1b^p\x1b\\d\x1b_a\x1b\\e", "abcde", "abcde"),
            ("a\x1b[2J\x1b[1;1Hb\x1b[?25lc\x1b[>4md\x1b[ qe", "abcde", "abcde"),
            ("a\x1bcb\x1b7c\x1b(0d\x1b#8e", "abcde", "abcde"),
            ("bad\rok \n", "bad\nok \n", "bad\nok \n"),
            ("a\r\nb\r\r\nc\r", "a\nb\nc\n", "a\nb\nc\n"),
            ("a\x08\x08\x07\x0b\x0c\x00\x7f\u{85}\u{8d}b", "ab", "ab"),
            ("a\x1b[31\x18b\x1b[31\x1b[32mc\x1b[m", "ab\x1b[32mc\x1b[m", "abc"),
            ("a\x1b]never ended\nb", "a\nb", "a\nb"),
            ("a\x1b[31\nb", "a\nb", "a\nb"),
            ("é\x1bé", "éé", "éé"),
        ] {
            assert_eq!(filtered(true, [given.as_bytes()]), with, "{given:?}");
            assert_eq!(filtered(false, [given.as_bytes()]), without, "{given:?}");
        }
        assert_eq!(filtered(true, [b"a\xff\xe2\x82b\xe2\x82".as_slice()]), "a\u{fffd}\u{fffd}b\u{fffd}");
        // Eight-bit controls as bare bytes are no UTF-8 and never reach a terminal.
        assert_eq!(filtered(true, [b"\x9b31mx\x9d0;t\x9c".as_slice()]), "\u{fffd}31mx\u{fffd}0;t\u{fffd}");
    }

    /// Bytes in which sequences are likely.
    fn noise() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            3 => prop::sample::select(vec![
                "\x1b", "[", "]", "m", ";", "0", "31", "\\", "\x07", "\n", "\r", "\u{9b}", "\u{9d}", "\u{9c}", "P", "?", ">",
                " ", "\x1b[1m", "\x1b]0;", "é", "€", "𝄞", "text",
            ])
            .prop_map(|text| text.as_bytes().to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..4),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn nothing_but_colour_and_text_comes_out(bytes in noise(), colour: bool) {
            let shown = filtered(colour, [bytes.as_slice()]);
            let sgr = regex::Regex::new("\x1b\\[[0-9;:]*m").expect("a pattern");
            prop_assert!(colour || !shown.contains('\x1b'));
            let rest = sgr.replace_all(&shown, "");
            prop_assert!(rest.chars().all(|c| matches!(c, '\n' | '\t') || !c.is_control()), "{:?}", rest);
        }

        #[test]
        fn where_chunks_are_cut_does_not_matter(bytes in noise(), size in 1usize..7, colour: bool) {
            prop_assert_eq!(filtered(colour, bytes.chunks(size)), filtered(colour, [bytes.as_slice()]));
        }

        #[test]
        fn plain_text_goes_through_unchanged(text in "[a-z \t\n€é]{0,60}") {
            prop_assert_eq!(filtered(true, [text.as_bytes()]), text);
        }
    }
}
