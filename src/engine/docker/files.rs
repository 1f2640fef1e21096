//! Files into a container and out of it, as tar archives: the one way that needs no folder shared with the engine's host and
//! leaves no trace in what an inspection shows.

use std::collections::BTreeSet;
use std::io::Read as _;

use crate::engine::File;

/// What an archive may hold beyond a file's content: its header, extended headers, padding and the end mark.
pub(super) const OVERHEAD: u64 = 64 * 1024;

/// An archive of files for the root folder: mode 0444, or 0666 if they are writable, their folders 0755, all of them root's and of no date.
///
/// Only the folder that a file is in is named: a folder above it that is there keeps its mode, and the engine makes one that is not.
pub(super) fn pack(files: &[File]) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut folders = BTreeSet::new();
    for file in files {
        let path = file.path.trim_start_matches('/');
        if let Some((folder, _)) = path.rsplit_once('/')
            && folders.insert(folder)
        {
            let mut header = header(0o755, 0);
            header.set_entry_type(tar::EntryType::Directory);
            archive.append_data(&mut header, folder, std::io::empty())?;
        }
        let mode = if file.writable { 0o666 } else { 0o444 };
        archive.append_data(&mut header(mode, file.content.len() as u64), path, file.content.as_slice())?;
    }
    archive.into_inner()
}

fn header(mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// What stands at a path, by the first entry of its archive.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A file, with its first bytes.
    File(Vec<u8>),
    /// A symbolic link to a path, absolute or from the link's own folder.
    Link(String),
    /// Something else.
    Other,
}

/// Reads the first entry of an archive that may be cut off, a file of at most `limit` bytes.
pub(super) fn unpack(archive: &[u8], limit: u64) -> std::io::Result<Entry> {
    let mut archive = tar::Archive::new(archive);
    let Some(entry) = archive.entries()?.next() else { return Ok(Entry::Other) };
    let entry = entry?;
    match entry.header().entry_type() {
        tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
            let mut content = Vec::new();
            entry.take(limit).read_to_end(&mut content)?;
            Ok(Entry::File(content))
        }
        tar::EntryType::Symlink => {
            Ok(entry.link_name()?.map_or(Entry::Other, |to| Entry::Link(to.to_string_lossy().into_owned())))
        }
        _ => Ok(Entry::Other),
    }
}

/// The path that a link at `path` leads to.
pub(super) fn resolve(path: &str, link: &str) -> String {
    match path.rsplit_once('/') {
        Some((folder, _)) if !link.starts_with('/') => format!("{folder}/{link}"),
        _ => link.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, content: &[u8]) -> File {
        File { path: path.to_owned(), content: content.to_vec(), writable: false }
    }

    #[test]
    fn a_folder_is_named_once_and_before_its_files() {
        let long = format!("/a/{}/x", "long-name-".repeat(20));
        let packed =
            pack(&[file("/run/lockstep/token", b"t"), file("/run/lockstep/vars.json", b"{}"), file(&long, b"")])
                .expect("packed");
        let mut archive = tar::Archive::new(packed.as_slice());
        let entries: Vec<_> = archive
            .entries()
            .expect("readable")
            .map(|entry| {
                let entry = entry.expect("readable");
                (entry.path().expect("a path").display().to_string(), entry.header().mode().expect("a mode"))
            })
            .collect();
        assert_eq!(entries[0], ("run/lockstep".to_owned(), 0o755));
        assert_eq!(entries[1], ("run/lockstep/token".to_owned(), 0o444));
        assert_eq!(entries[2], ("run/lockstep/vars.json".to_owned(), 0o444));
        assert_eq!(entries[4], (long.trim_start_matches('/').to_owned(), 0o444));
        assert_eq!(entries.len(), 5);
    }

    #[test]
    fn a_file_reads_back_up_to_the_limit_though_the_archive_is_cut_off() {
        let content: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_data(&mut header(0o444, 100_000), "x", content.as_slice()).expect("packed");
        let packed = archive.into_inner().expect("packed");
        assert_eq!(unpack(&packed, 1 << 20).expect("whole"), Entry::File(content.clone()));
        assert_eq!(unpack(&packed[..1024], 512).expect("cut off"), Entry::File(content[..512].to_vec()));
    }

    #[test]
    fn links_lead_from_their_folder() {
        assert_eq!(resolve("/run/secrets/key", "..data/key"), "/run/secrets/..data/key");
        assert_eq!(resolve("/run/secrets/key", "/etc/key"), "/etc/key");
    }
}
