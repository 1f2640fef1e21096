//! From the bytes of a log's HTTP body to what the container wrote.
//!
//! ```text
//!  chunk:  6c\r\n  ┌ frame: kind 0 0 0 length ┐ time and a blank, bytes …  \r\n      … 0\r\n\r\n
//! ```
//!
//! A frame says which of the two streams it is of; chunks and frames need not coincide, and a read may end anywhere in either. The last
//! chunk is what tells an end from a connection that was lost. The time of the last piece is what tells whether it was the last indeed.

use bytes::BytesMut;

/// Length of the time before each piece: RFC 3339 in UTC with nine digits, and a blank.
const STAMP: usize = 31;
/// The most of what the engine tells that is kept, in bytes.
const TOLD_MAX: usize = 4096;

/// What a body holds that is not output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Garbled {
    /// The engine tells of trouble in reading the log.
    Told(String),
    /// This is no log.
    Format(&'static str),
}

/// Where in a body the next byte belongs.
#[derive(Debug, Default)]
pub(super) struct Frames {
    chunk: Chunk,
    frame: Frame,
    /// The time of the last piece that was begun.
    stamp: Option<[u8; STAMP]>,
    /// What the engine has told so far.
    told: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    /// In its size, a hexadecimal number.
    Size(u64),
    /// Behind the size, up to the line's end.
    Extension(u64),
    /// So many bytes of content are to come.
    Content(u64),
    /// In the line's end behind the content.
    End,
    /// In a line behind the last chunk, with so many characters before.
    Trailer(u32),
    /// Behind it all.
    Over,
}

impl Default for Chunk {
    fn default() -> Self {
        Self::Size(0)
    }
}

#[derive(Debug, Clone, Copy)]
enum Frame {
    /// In its header, with so many bytes before.
    Header([u8; 8], usize),
    /// In its time, with so many bytes before; so many bytes are to come after it.
    Stamp([u8; STAMP], usize, u32),
    /// So many bytes of output are to come.
    Output(u32),
    /// So many bytes of what the engine tells are to come.
    Told(u32),
}

impl Default for Frame {
    fn default() -> Self {
        Self::Header([0; 8], 0)
    }
}

impl Frames {
    /// Takes in the next bytes and appends what is output among them. After an error nothing more may be taken in.
    pub(super) fn push(&mut self, mut bytes: &[u8], output: &mut BytesMut) -> Result<(), Garbled> {
        while let Some(&byte) = bytes.first() {
            if let Chunk::Content(left) = self.chunk {
                let (content, rest) = split(bytes, left);
                self.content(content, output)?;
                self.chunk = match left - content.len() as u64 {
                    0 => Chunk::End,
                    left => Chunk::Content(left),
                };
                bytes = rest;
                continue;
            }
            self.chunk = match (self.chunk, byte) {
                (Chunk::Size(size) | Chunk::Extension(size), b'\n') => match size {
                    0 => Chunk::Trailer(0),
                    size => Chunk::Content(size),
                },
                (Chunk::Size(size), b'\r' | b';' | b' ') | (Chunk::Extension(size), _) => Chunk::Extension(size),
                (Chunk::Size(size), digit) => match char::from(digit).to_digit(16) {
                    Some(digit) if size < 1 << 32 => Chunk::Size(size * 16 + u64::from(digit)),
                    _ => return Err(Garbled::Format("a chunk's size is no number")),
                },
                (Chunk::End, b'\r') => Chunk::End,
                (Chunk::End, b'\n') => Chunk::Size(0),
                (Chunk::End, _) => return Err(Garbled::Format("a chunk is longer than its size")),
                (Chunk::Trailer(0), b'\n') => {
                    if !matches!(self.frame, Frame::Header(_, 0)) {
                        return Err(Garbled::Format("it ends within a frame"));
                    }
                    Chunk::Over
                }
                (Chunk::Trailer(before), b'\r') => Chunk::Trailer(before),
                (Chunk::Trailer(_), b'\n') => Chunk::Trailer(0),
                (Chunk::Trailer(before), _) => Chunk::Trailer(before.saturating_add(1)),
                (Chunk::Over, _) => return Err(Garbled::Format("something follows its end")),
                (Chunk::Content(_), _) => unreachable!("taken in above"),
            };
            bytes = &bytes[1..];
        }
        Ok(())
    }

    /// The time of the last piece, as the engine writes it.
    pub(super) fn last_stamp(&self) -> Option<&[u8]> {
        self.stamp.as_ref().map(<[u8; STAMP]>::as_slice)
    }

    /// Whether the body has come to its end.
    pub(super) fn is_over(&self) -> bool {
        self.chunk == Chunk::Over
    }

    fn content(&mut self, mut bytes: &[u8], output: &mut BytesMut) -> Result<(), Garbled> {
        while !bytes.is_empty() {
            match &mut self.frame {
                Frame::Header(header, before) => {
                    let (part, rest) = split(bytes, (header.len() - *before) as u64);
                    header[*before..*before + part.len()].copy_from_slice(part);
                    *before += part.len();
                    bytes = rest;
                    if let [kind, 0, 0, 0, length @ ..] = header
                        && *before == 8
                    {
                        let length = u32::from_be_bytes(*length);
                        self.frame = match (*kind, length) {
                            (1..=3, 0) => Frame::default(),
                            (1 | 2, length) if length as usize >= STAMP => {
                                Frame::Stamp([0; STAMP], 0, length - STAMP as u32)
                            }
                            (1 | 2, _) => return Err(Garbled::Format("a piece has no time")),
                            (3, length) => Frame::Told(length),
                            _ => return Err(Garbled::Format("a frame is of an unknown kind")),
                        };
                    } else if *before == 8 {
                        return Err(Garbled::Format("a frame's header is unknown"));
                    }
                }
                Frame::Stamp(stamp, before, length) => {
                    let (part, rest) = split(bytes, (STAMP - *before) as u64);
                    stamp[*before..*before + part.len()].copy_from_slice(part);
                    *before += part.len();
                    bytes = rest;
                    if *before == STAMP {
                        if stamp[STAMP - 1] != b' ' {
                            return Err(Garbled::Format("a piece's time is of an unknown form"));
                        }
                        self.stamp = Some(*stamp);
                        self.frame = if *length == 0 { Frame::default() } else { Frame::Output(*length) };
                    }
                }
                Frame::Output(left) => {
                    let (part, rest) = split(bytes, u64::from(*left));
                    output.extend_from_slice(part);
                    bytes = rest;
                    match *left as usize - part.len() {
                        0 => self.frame = Frame::default(),
                        _ => *left -= part.len() as u32,
                    }
                }
                Frame::Told(left) => {
                    let (part, rest) = split(bytes, u64::from(*left));
                    self.told.extend_from_slice(part);
                    bytes = rest;
                    *left -= part.len() as u32;
                    if *left == 0 || self.told.len() > TOLD_MAX {
                        return Err(Garbled::Told(String::from_utf8_lossy(&self.told).trim().to_owned()));
                    }
                }
            }
        }
        Ok(())
    }
}

fn split(bytes: &[u8], at_most: u64) -> (&[u8], &[u8]) {
    bytes.split_at(usize::try_from(at_most).map_or(bytes.len(), |most| most.min(bytes.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIME: &[u8; STAMP] = b"2026-01-02T03:04:05.678901234Z ";

    fn frame(kind: u8, content: &[u8]) -> Vec<u8> {
        let stamp: &[u8] = if kind == 3 { b"" } else { TIME };
        let mut frame = vec![kind, 0, 0, 0];
        frame.extend(((stamp.len() + content.len()) as u32).to_be_bytes());
        frame.extend(stamp);
        frame.extend(content);
        frame
    }

    /// A body of these bytes in chunks of these sizes, taken over and over.
    fn body(bytes: &[u8], sizes: &[usize]) -> Vec<u8> {
        let mut body = Vec::new();
        let mut rest = bytes;
        for &size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, after) = rest.split_at(size.min(rest.len()));
            body.extend(format!("{:x}\r\n", chunk.len()).bytes());
            body.extend(chunk);
            body.extend(b"\r\n");
            rest = after;
        }
        body.extend(b"0\r\n\r\n");
        body
    }

    proptest! {
        #[test]
        fn whatever_the_cuts_the_output_is_the_same(
            pieces in prop::collection::vec((1u8..=2, prop::collection::vec(any::<u8>(), 0..40)), 0..12),
            chunks in prop::collection::vec(1usize..50, 1..5),
            reads in prop::collection::vec(1usize..50, 1..5),
        ) {
            let framed: Vec<u8> = pieces.iter().flat_map(|(kind, content)| frame(*kind, content)).collect();
            let written: Vec<u8> = pieces.iter().flat_map(|(_, content)| content.clone()).collect();
            let body = body(&framed, &chunks);
            let (mut frames, mut output, mut rest) = (Frames::default(), BytesMut::new(), body.as_slice());
            for &read in reads.iter().cycle() {
                prop_assert!(!frames.is_over() || rest.is_empty());
                if rest.is_empty() {
                    break;
                }
                let (part, after) = rest.split_at(read.min(rest.len()));
                prop_assert_eq!(frames.push(part, &mut output), Ok(()));
                rest = after;
            }
            prop_assert!(frames.is_over());
            prop_assert_eq!(frames.last_stamp(), (!pieces.is_empty()).then_some(&TIME[..]));
            prop_assert_eq!(output.to_vec(), written);
        }

        #[test]
        fn garbage_is_an_error_or_unfinished_but_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Frames::default().push(&bytes, &mut BytesMut::new());
        }
    }

    #[test]
    fn a_lost_connection_is_no_end() {
        let whole = body(&frame(1, b"line\n"), &[1000]);
        for cut in 0..whole.len() {
            let mut frames = Frames::default();
            assert_eq!(frames.push(&whole[..cut], &mut BytesMut::new()), Ok(()));
            assert!(!frames.is_over(), "cut at {cut}");
        }
    }

    #[test]
    fn what_the_engine_tells_is_no_output() {
        let mut bytes = frame(1, b"before\n");
        bytes.extend(frame(3, b"Error grabbing logs: unexpected EOF\n"));
        let mut output = BytesMut::new();
        let told = Frames::default().push(&body(&bytes, &[7]), &mut output);
        assert_eq!(told, Err(Garbled::Told("Error grabbing logs: unexpected EOF".to_owned())));
        assert_eq!(&output[..], b"before\n");
    }

    #[test]
    fn an_end_within_a_frame_is_an_error() {
        let bytes = frame(1, b"half of it");
        let ended = Frames::default().push(&body(&bytes[..40], &[1000]), &mut BytesMut::new());
        assert!(matches!(ended, Err(Garbled::Format(_))));
    }
}
