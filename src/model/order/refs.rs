//! What a git repository says of its branches and tags over HTTP, before anything is fetched.
//!
//! Two forms: that of a server which knows git (pkt-lines, each with its length in four hexadecimal digits before it; protocol version 0),
//! and that of one which serves files alone (`info/refs`: a commit, a tab, a name).

use std::collections::BTreeMap;

/// Branches, tags and `HEAD`, each with its commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refs(BTreeMap<String, String>);

impl Refs {
    /// Reads an answer; none: it is no repository's.
    pub fn read(answer: &[u8]) -> Option<Self> {
        let mut refs = BTreeMap::new();
        let lines =
            if answer.starts_with(b"001e# service=git-upload-pack\n") { pkt_lines(answer)? } else { plain(answer)? };
        for line in lines {
            // What a server can do stands behind the first name.
            let line = line.split('\0').next().unwrap_or_default().trim_end_matches('\n');
            let Some((commit, name)) = line.split_once([' ', '\t']) else { continue };
            if is_commit(commit) && !name.is_empty() {
                refs.insert(name.to_owned(), commit.to_owned());
            }
        }
        Some(Self(refs))
    }

    /// The commit of a branch, a tag or, where none is named, of `HEAD`; none: there is none of that name.
    pub fn commit(&self, revision: Option<&str>) -> Option<&str> {
        let of = |name: String| self.0.get(&name).map(String::as_str);
        match revision {
            None => of("HEAD".into()),
            Some(revision) => {
                // What a tag that says more than a name points to has `^{}` behind it.
                let names = ["refs/heads/", "refs/tags/"];
                names
                    .iter()
                    .find_map(|kind| of(format!("{kind}{revision}^{{}}")).or_else(|| of(format!("{kind}{revision}"))))
            }
        }
    }
}

/// Whether a text is a commit as a whole.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn pkt_lines(mut answer: &[u8]) -> Option<Vec<&str>> {
    let mut lines = Vec::new();
    while let Some((length, rest)) = answer.split_at_checked(4) {
        let length = usize::from_str_radix(std::str::from_utf8(length).ok()?, 16).ok()?;
        // 0000 ends a section; nothing is shorter than its own length.
        if length == 0 {
            answer = rest;
            continue;
        }
        let (line, rest) = rest.split_at_checked(length.checked_sub(4)?)?;
        lines.push(std::str::from_utf8(line).ok()?);
        answer = rest;
    }
    Some(lines)
}

fn plain(answer: &[u8]) -> Option<Vec<&str>> {
    let lines: Vec<&str> = std::str::from_utf8(answer).ok()?.lines().collect();
    let good = lines.iter().all(|line| line.split_once('\t').is_some_and(|(commit, _)| is_commit(commit)));
    (good && !lines.is_empty()).then_some(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn pkt(line: &str) -> String {
        format!("{:04x}{line}", line.len() + 4)
    }

    #[test]
    fn what_a_server_says_is_read_in_both_forms() {
        let smart = [
            pkt("# service=git-upload-pack\n"),
            "0000".into(),
            pkt(&format!("{A} HEAD\0multi_ack symref=HEAD:refs/heads/main agent=git/2.39\n")),
            pkt(&format!("{A} refs/heads/main\n")),
            pkt(&format!("{A} refs/tags/v1\n")),
            pkt(&format!("{B} refs/tags/v1^{{}}\n")),
            "0000".into(),
        ];
        let refs = Refs::read(smart.concat().as_bytes()).expect("a repository");
        assert_eq!(refs.commit(None), Some(A));
        assert_eq!(refs.commit(Some("main")), Some(A));
        assert_eq!(refs.commit(Some("v1")), Some(B));
        assert_eq!(refs.commit(Some("v2")), None);
        let dumb = Refs::read(format!("{A}\trefs/heads/main\n{B}\trefs/tags/v1\n").as_bytes()).expect("a repository");
        assert_eq!((dumb.commit(Some("main")), dumb.commit(None)), (Some(A), None));
        for no in [
            "",
            "<html>",
            "001e# service=git-upload-pack\nzzzz",
            "001e# service=git-upload-pack\nffff",
            "001e# service=git-upload-pack\n0003",
        ] {
            assert_eq!(Refs::read(no.as_bytes()), None, "{no}");
        }
    }
}
