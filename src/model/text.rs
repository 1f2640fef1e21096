//! Texts that people read.

/// Whether a character does something to the text around it. What turns the direction of a line is as good as a control character.
pub fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_the_text_around_it() {
        for c in ['\n', '\u{1b}', '\u{9b}', '\u{200b}', '\u{202e}', '\u{2066}', '\u{feff}'] {
            assert!(acts(c), "{c:?}");
        }
        for c in ['a', 'é', ' ', '中', '\u{301}'] {
            assert!(!acts(c), "{c:?}");
        }
    }
}
