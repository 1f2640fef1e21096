//! Where output and our own lines go: to a terminal with colour and a line of status below, or into a log as plain lines.
//!
//! Standard output carries the job's output and what is said about the job; standard error carries warnings, faults and the
//! line of status. Who closes standard output (`| head`) stops the printing, not the following.

use std::io::{self, IsTerminal as _, Write};

use super::escape::{Filter, plain};
use super::exit::Fault;
use crate::clock;

/// How things are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// Colour, ours and the job's.
    pub(super) colour: bool,
    /// A line of status that is drawn over.
    pub(super) live: bool,
    /// The log's reader takes lines such as `::error::` for commands to itself: GitHub's.
    pub(super) commands: bool,
}

impl Look {
    /// By what standard output and error are, and the environment.
    fn detect(out: bool, err: bool, env: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        let ci = set("CI").is_some_and(|value| !matches!(value.as_str(), "false" | "0"));
        let terminal = out && !ci && set("TERM").is_some_and(|term| term != "dumb");
        Self {
            colour: terminal && set("NO_COLOR").is_none(),
            live: terminal && err,
            commands: !terminal && set("GITHUB_ACTIONS").is_some_and(|value| value == "true"),
        }
    }
}

/// How a text of ours stands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it is.
    Plain,
    /// Less than the job's output.
    Quiet,
    /// It went well.
    Good,
    /// It did not.
    Bad,
}

impl Tone {
    /// The text in that tone.
    pub(super) fn paint(self, colour: bool, text: &str) -> String {
        let code = match self {
            Self::Quiet => "2",
            Self::Good => "1;32",
            Self::Bad => "1;31",
            Self::Plain => return text.to_owned(),
        };
        if colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Standard output and error of a command.
pub(super) struct Screen {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    look: Look,
    terminal: bool,
    width: Option<usize>,
    filter: Filter,
    /// What may be the beginning of a command, and is shown with what follows.
    held: String,
    /// Ends what keeps lines of the output from being taken for commands.
    resume: Option<String>,
    line_start: bool,
    status_shown: bool,
    closed: bool,
    unprinted: Option<String>,
}

impl Screen {
    /// On the process's own standard output and error.
    pub(super) fn standard(env: impl Fn(&str) -> Option<String>) -> Self {
        let terminal = io::stdout().is_terminal();
        // Who sets COLUMNS has a reason.
        let set = env("COLUMNS").and_then(|text| text.trim().parse().ok());
        let width = set.or_else(|| rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col.into()));
        let look = Look::detect(terminal, io::stderr().is_terminal(), env);
        let screen = Self::new(Box::new(io::BufWriter::new(io::stdout())), Box::new(io::stderr()), look);
        Self { width: width.filter(|width| terminal && *width > 0), terminal, ..screen }
    }

    /// On something else.
    pub(super) fn new(out: Box<dyn Write + Send>, err: Box<dyn Write + Send>, look: Look) -> Self {
        Self {
            out,
            err,
            look,
            terminal: false,
            width: None,
            filter: Filter::new(look.colour),
            held: String::new(),
            resume: None,
            line_start: true,
            status_shown: false,
            closed: false,
            unprinted: None,
        }
    }

    /// How things are shown here.
    pub(super) fn look(&self) -> Look {
        self.look
    }

    /// How many characters a line has; none: it is no terminal.
    pub(super) fn width(&self) -> Option<usize> {
        self.width
    }

    /// Whether a line of ours would break into nothing.
    pub(super) fn between_lines(&self) -> bool {
        self.line_start && !self.filter.is_coloured()
    }

    /// Why something could not be printed, other than that whoever read it has gone.
    pub(super) fn unprinted(&self) -> Option<&str> {
        self.unprinted.as_deref()
    }

    /// Whether whoever read standard output has gone.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether what is printed can do nothing where it goes: it is a file's or another program's, and no log that takes commands.
    pub(super) fn is_exact(&self) -> bool {
        !self.terminal && !self.look.commands
    }

    /// Prints bytes as they are.
    pub(super) fn exact(&mut self, bytes: &[u8]) {
        self.wipe();
        self.put_bytes(bytes);
    }

    /// From here on, lines that come from the job or the dispatcher can't be commands to the log's reader.
    pub(super) fn shield(&mut self) {
        if self.look.commands && self.resume.is_none() {
            let token = clock::draw_name();
            self.put(&format!("::stop-commands::{token}\n"));
            self.resume = Some(format!("::{token}::\n"));
        }
    }

    /// Shows the job's output.
    pub(super) fn output(&mut self, bytes: &[u8]) {
        let mut shown = String::with_capacity(bytes.len());
        self.filter.push(bytes, &mut shown);
        if !shown.is_empty() {
            self.wipe();
            let shown = self.tamed(&shown, false);
            self.put(&shown);
            self.line_start = self.filter.at_line_start();
        }
    }

    /// GitHub carries out its older commands (`##[…`) from anywhere in a line, and formats them where others are stopped. What may be the
    /// beginning of one is held back until it is known.
    fn tamed(&mut self, text: &str, last: bool) -> String {
        if !self.look.commands {
            return text.to_owned();
        }
        let text = (std::mem::take(&mut self.held) + text).replace("##[", "# #[");
        let hashes = text.bytes().rev().take_while(|byte| *byte == b'#').count().min(2);
        let (shown, held) = text.split_at(if last { text.len() } else { text.len() - hashes });
        held.clone_into(&mut self.held);
        shown.to_owned()
    }

    /// The job's output is over: what was held back is shown.
    pub(super) fn output_ends(&mut self) {
        let mut shown = String::new();
        self.filter.finish(&mut shown);
        self.wipe();
        let shown = self.tamed(&shown, true);
        self.put(&shown);
        self.line_start = self.filter.at_line_start();
    }

    /// Says something about the job, in a line of its own on standard output.
    pub(super) fn say(&mut self, line: &str) {
        self.wipe();
        let gap = if self.line_start { "" } else { "\n" };
        let line = if self.look.commands { line.replace("##[", "# #[") } else { line.to_owned() };
        self.put(&format!("{gap}{line}\n"));
        self.line_start = true;
    }

    /// Says something about the following, on standard error.
    pub(super) fn note(&mut self, line: &str) {
        self.wipe();
        if !self.line_start && self.look.live {
            self.put("\n");
            self.line_start = true;
        }
        let line = Tone::Quiet.paint(self.look.colour, &format!("lockstep: {line}"));
        self.put_err(&format!("{line}\n"));
    }

    /// A line of what is followed, on standard error: standard output is somebody else's to read.
    pub(super) fn aside(&mut self, line: &str) {
        self.wipe();
        let line = if self.look.commands { line.replace("##[", "# #[") } else { line.to_owned() };
        self.put_err(&format!("{line}\n"));
    }

    /// Says what went wrong and what to do, on standard error.
    pub(super) fn fault(&mut self, fault: &Fault) {
        self.wipe();
        if !self.line_start && self.look.live {
            self.put("\n");
            self.line_start = true;
        }
        let word = Tone::Bad.paint(self.look.colour, "error:");
        let hint = fault.hint.as_ref().map(|hint| format!("       {hint}\n")).unwrap_or_default();
        self.put_err(&format!("{word} {}\n{hint}", fault.what));
    }

    /// Draws the line of status, where there is one, and where it breaks into nothing.
    pub(super) fn status(&mut self, text: &str) {
        if self.look.live && self.between_lines() {
            // Without wrapping, a line that is too long is cut by the terminal and stays one line.
            let text = Tone::Quiet.paint(self.look.colour, &plain(text));
            self.put_err(&format!("\r\x1b[K\x1b[?7l{text}\x1b[?7h"));
            self.status_shown = true;
        }
    }

    /// The end of the command's output.
    pub(super) fn finish(&mut self) {
        self.wipe();
        if let Some(resume) = self.resume.take() {
            let gap = if self.line_start { "" } else { "\n" };
            self.put(&format!("{gap}{resume}"));
        }
    }

    fn wipe(&mut self) {
        if std::mem::take(&mut self.status_shown) {
            self.put_err("\r\x1b[K");
        }
    }

    fn put(&mut self, text: &str) {
        self.put_bytes(text.as_bytes());
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        if self.closed || bytes.is_empty() {
            return;
        }
        if let Err(error) = self.out.write_all(bytes).and_then(|()| self.out.flush()) {
            self.closed = true;
            // Who has read enough may leave; a full disk is another matter.
            if error.kind() != io::ErrorKind::BrokenPipe {
                self.unprinted = Some(error.to_string());
            }
        }
    }

    /// Standard error that is gone can't be complained about anywhere.
    fn put_err(&mut self, text: &str) {
        let _ = self.err.write_all(text.as_bytes()).and_then(|()| self.err.flush());
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    /// What was written, for a test to look at.
    #[derive(Clone, Default)]
    pub(in super::super) struct Page(Arc<Mutex<Vec<u8>>>);

    impl Page {
        pub(in super::super) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).expect("UTF-8")
        }
    }

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    pub(in super::super) const PLAIN: Look = Look { colour: false, live: false, commands: false };

    fn screen(look: Look) -> (Screen, Page, Page) {
        let (out, err) = (Page::default(), Page::default());
        (Screen::new(Box::new(out.clone()), Box::new(err.clone()), look), out, err)
    }

    #[test]
    fn what_the_environment_makes_of_it() {
        let look = |out, err, pairs: &[(&str, &str)]| {
            Look::detect(out, err, |name| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let term = ("TERM", "xterm");
        let full = Look { colour: true, live: true, commands: false };
        assert_eq!(look(true, true, &[term]), full);
        assert_eq!(look(true, true, &[term, ("CI", "false"), ("NO_COLOR", "")]), full);
        assert_eq!(look(true, true, &[term, ("NO_COLOR", "1")]), Look { colour: false, ..full });
        assert_eq!(look(true, false, &[term]), Look { live: false, ..full });
        assert_eq!(look(true, true, &[("TERM", "dumb")]), PLAIN);
        assert_eq!(look(true, true, &[]), PLAIN);
        assert_eq!(look(true, true, &[term, ("CI", "true")]), PLAIN);
        assert_eq!(look(false, true, &[term]), PLAIN);
        assert_eq!(
            look(false, false, &[term, ("CI", "1"), ("GITHUB_ACTIONS", "true")]),
            Look { commands: true, ..PLAIN }
        );
    }

    #[test]
    fn a_log_has_plain_lines_and_no_commands() {
        let (mut screen, out, err) = screen(Look { commands: true, ..PLAIN });
        screen.shield();
        screen.say("lockstep: accepted");
        screen.status("never shown");
        screen.output(b"::error::\x1b[31mno\x1b[0m\rpart");
        screen.note("a word");
        screen.output_ends();
        screen.say("the end");
        screen.finish();
        let text = out.text();
        let token = text.strip_prefix("::stop-commands::").and_then(|rest| rest.get(..32)).expect("a token");
        assert_eq!(
            text,
            format!("::stop-commands::{token}\nlockstep: accepted\n::error::no\npart\nthe end\n::{token}::\n")
        );
        assert_eq!(err.text(), "lockstep: a word\n");
    }

    #[test]
    fn what_goes_to_a_file_is_byte_for_byte() {
        let bytes = b"\x1b[31mred\r\n\0##[error]end";
        let (mut file, out, _) = screen(PLAIN);
        assert!(file.is_exact());
        file.exact(bytes);
        file.finish();
        assert_eq!(out.text().as_bytes(), bytes);
        // In a log that takes commands nothing is printed as it is.
        assert!(!screen(Look { commands: true, ..PLAIN }).0.is_exact());
        let (mut log, out, err) = screen(Look { commands: true, ..PLAIN });
        log.aside("a ##[error]");
        assert_eq!((out.text().as_str(), err.text().as_str()), ("", "a # #[error]\n"));
    }

    #[test]
    fn a_terminal_has_a_line_of_status_that_breaks_into_nothing() {
        let (mut screen, out, err) = screen(Look { colour: false, live: true, commands: false });
        screen.status("1 s");
        screen.output(b"begun");
        screen.status("2 s");
        screen.output(b" ended\n");
        screen.status("3 s\x1b[2J\n");
        screen.finish();
        assert_eq!(out.text(), "begun ended\n");
        assert_eq!(err.text(), "\r\x1b[K\x1b[?7l1 s\x1b[?7h\r\x1b[K\r\x1b[K\x1b[?7l3 s\x1b[?7h\r\x1b[K");
    }
}
