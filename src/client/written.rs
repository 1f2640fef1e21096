//! Files that people write, such as pipelines: read as a whole, and all that is wrong with one said before anything is sent.

use std::path::Path;

use super::deploy::read;
use super::escape::plain;
use super::exit::Fault;
use crate::model::mistakes::Mistakes;

/// A kind of file.
pub(super) struct Kind<T> {
    /// What it is called.
    pub(super) what: &'static str,
    /// Where it is said what it must be like.
    pub(super) hint: &'static str,
    /// Its reader.
    pub(super) read: fn(&str) -> Result<T, Mistakes>,
}

impl<T> Kind<T> {
    /// Reads a file and says all that is wrong with it, as `file:line:column: what`. The text comes with what it says.
    pub(super) fn of(&self, path: &Path) -> Result<(T, String), Fault> {
        let bytes = read(path, self.what)?;
        let shown = path.display();
        let what = self.what;
        let wrong = |what: String| Fault::usage(what, self.hint);
        let text = String::from_utf8(bytes).map_err(|_| wrong(format!("the {what} {shown} is not UTF-8")))?;
        let parsed = (self.read)(&text).map_err(|Mistakes(mistakes)| {
            let mut lines = vec![format!("the {what} {shown} is wrong:")];
            lines.extend(mistakes.iter().map(|mistake| match mistake.line {
                0 => format!("  {shown}: {}", plain(&mistake.what)),
                line => format!("  {shown}:{line}:{}: {}", mistake.column, plain(&mistake.what)),
            }));
            wrong(lines.join("\n"))
        })?;
        Ok((parsed, text))
    }
}
