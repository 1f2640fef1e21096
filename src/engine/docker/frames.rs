//! From the bytes of a log's HTTP body to what the container wrote.
//!
//! ```text
//!  chunk:  8b\r\n  ┌ frame: kind 0 0 0 length ┐ 2026-11-21T05:43:57.518480025Z bytes …  \r\n      … 0\r\n\r\n
//! ```
//!
//! A frame says which of the two streams it is of, and when the engine took it in; chunks and frames need not coincide, and a read may end
//! anywhere in either. The last chunk is what tells an end from a connection that was lost.
//!
//! The engine stamps the frames of one stream in their order, and the pieces of a long line alike. So a frame is found again in
//! another reading of the same log by its stream, its stamp, and how many frames of the stream bore the stamp before it: its [`Place`].

use bytes::BytesMut;

/// The most of what the engine tells that is kept, in bytes.
const TOLD_MAX: usize = 4096;
/// The longest stamp, in bytes.
const STAMP_MAX: usize = 40;

/// What a body holds that is not output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Garbled {
    /// The engine tells of trouble in reading the log.
    Told(String),
    /// This is no log.
    Format(&'static str),
}

/// When the engine took a frame in, in its own writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    text: [u8; STAMP_MAX],
    length: usize,
}

impl Default for Stamp {
    fn default() -> Self {
        Self { text: [0; STAMP_MAX], length: 0 }
    }
}

/// Which frame of a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Its stream: 1 is standard output, 2 is standard error.
    kind: u8,
    stamp: Stamp,
    /// How many frames of its stream have borne its stamp, itself counted.
    count: u64,
}

/// A place that is looked for.
#[derive(Debug)]
struct Search {
    place: Place,
    seen: u64,
}

/// Where in a body the next byte belongs, and what has been read.
#[derive(Debug, Default)]
pub(super) struct Frames {
    chunk: Chunk,
    frame: Frame,
    /// What the engine has told so far.
    told: Vec<u8>,
    /// The last frame of each stream.
    lasts: [Place; 2],
    /// The stream of the last frame of all; 0: there was none.
    last: u8,
    count: u64,
    search: Option<Search>,
    /// Whether a frame of the stream that is searched came before those with the stamp that is searched.
    led_up: bool,
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
    /// In its stamp; so many bytes are to come in all.
    Stamp(u8, Stamp, u32),
    /// So many bytes of output are to come.
    Output(u32),
    /// So many bytes of output that is not wanted are to come.
    Passed(u32),
    /// So many bytes of what the engine tells are to come.
    Told(u32),
}

impl Default for Frame {
    fn default() -> Self {
        Self::Header([0; 8], 0)
    }
}

impl Frames {
    /// For a reading whose output is wanted from behind a place.
    pub(super) fn behind(place: Place) -> Self {
        Self { search: Some(Search { place, seen: 0 }), ..Self::default() }
    }

    /// The place of the last frame; none: there was none.
    pub(super) fn place(&self) -> Option<Place> {
        self.lasts.get(usize::from(self.last).checked_sub(1)?).copied()
    }

    /// How many frames there were.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Whether the place was found, or none was looked for.
    pub(super) fn has_found(&self) -> bool {
        self.search.is_none()
    }

    /// Whether the reading holds all frames of the searched stream with the searched stamp, by showing one before those.
    pub(super) fn has_led_up(&self) -> bool {
        self.led_up
    }

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
                    if *before == header.len() {
                        let [kind, 0, 0, 0, length @ ..] = *header else {
                            return Err(Garbled::Format("a frame's header is unknown"));
                        };
                        self.frame = match (kind, u32::from_be_bytes(length)) {
                            (1 | 2, length) => Frame::Stamp(kind, Stamp::default(), length),
                            (3, 0) => Frame::default(),
                            (3, length) => Frame::Told(length),
                            _ => return Err(Garbled::Format("a frame is of an unknown kind")),
                        };
                    }
                }
                Frame::Stamp(kind, stamp, left) => {
                    let byte = bytes[0];
                    bytes = &bytes[1..];
                    if *left == 0 || stamp.length == STAMP_MAX {
                        return Err(Garbled::Format("a frame has no stamp"));
                    }
                    *left -= 1;
                    if byte == b' ' {
                        let (kind, stamp, left) = (*kind, *stamp, *left);
                        let wanted = self.enter(kind, stamp);
                        self.frame = match (left, wanted) {
                            (0, _) => Frame::default(),
                            (left, true) => Frame::Output(left),
                            (left, false) => Frame::Passed(left),
                        };
                    } else {
                        stamp.text[stamp.length] = byte;
                        stamp.length += 1;
                    }
                }
                Frame::Output(left) | Frame::Passed(left) => {
                    let (part, rest) = split(bytes, u64::from(*left));
                    bytes = rest;
                    *left -= part.len() as u32;
                    let over = *left == 0;
                    if let Frame::Output(_) = self.frame {
                        output.extend_from_slice(part);
                    }
                    if over {
                        self.frame = Frame::default();
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

    /// Counts a frame; whether its output is wanted.
    fn enter(&mut self, kind: u8, stamp: Stamp) -> bool {
        self.count += 1;
        self.last = kind;
        let last = &mut self.lasts[usize::from(kind) - 1];
        let count = if last.stamp == stamp { last.count + 1 } else { 1 };
        *last = Place { kind, stamp, count };
        let Some(search) = &mut self.search else { return true };
        if kind == search.place.kind {
            if stamp == search.place.stamp {
                search.seen += 1;
            } else if search.seen == 0 {
                self.led_up = true;
            }
            if search.seen == search.place.count {
                self.search = None;
            }
        }
        false
    }
}

fn split(bytes: &[u8], at_most: u64) -> (&[u8], &[u8]) {
    bytes.split_at(usize::try_from(at_most).map_or(bytes.len(), |most| most.min(bytes.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, content: &[u8]) -> Vec<u8> {
        let mut frame = vec![kind, 0, 0, 0];
        frame.extend((content.len() as u32).to_be_bytes());
        frame.extend(content);
        frame
    }

    /// A frame of output, taken in at so many seconds past noon.
    fn stamped(kind: u8, at: u8, content: &[u8]) -> Vec<u8> {
        frame(kind, &[format!("2026-11-21T12:00:{at:02}.000000000Z ").as_bytes(), content].concat())
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
            let framed: Vec<u8> = pieces.iter().flat_map(|(kind, content)| stamped(*kind, 7, content)).collect();
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
            prop_assert_eq!(output.to_vec(), written);
        }

        #[test]
        fn a_second_reading_goes_on_where_the_first_was_cut_off(
            frames in prop::collection::vec((1u8..=2, 0u8..4, prop::collection::vec(any::<u8>(), 0..3)), 1..40),
            cut in any::<prop::sample::Index>(),
            from in any::<prop::sample::Index>(),
        ) {
            // Stamps of one stream never go back.
            let mut clocks = [0u8; 2];
            let frames: Vec<(u8, u8, Vec<u8>)> = frames
                .into_iter()
                .map(|(kind, tick, content)| {
                    let clock = &mut clocks[usize::from(kind) - 1];
                    *clock = (*clock + tick / 3).min(59);
                    (kind, *clock, content)
                })
                .collect();
            let framed = |frames: &[(u8, u8, Vec<u8>)]| -> Vec<u8> {
                frames.iter().flat_map(|(kind, at, content)| stamped(*kind, *at, content)).collect()
            };
            let written = |frames: &[(u8, u8, Vec<u8>)]| -> Vec<u8> {
                frames.iter().flat_map(|(_, _, content)| content.clone()).collect()
            };
            let cut = cut.index(frames.len()) + 1;
            let mut first = Frames::default();
            prop_assert_eq!(first.push(&body(&framed(&frames[..cut]), &[64]), &mut BytesMut::new()), Ok(()));
            let place = first.place().expect("at least one frame");

            let mut whole = Frames::behind(place);
            let mut rest = BytesMut::new();
            prop_assert_eq!(whole.push(&body(&framed(&frames), &[64]), &mut rest), Ok(()));
            prop_assert!(whole.has_found());
            prop_assert_eq!(rest.to_vec(), written(&frames[cut..]));

            // From somewhere in the middle: what is found, with something of that stream before it, is right.
            let mut part = Frames::behind(place);
            let mut rest = BytesMut::new();
            prop_assert_eq!(part.push(&body(&framed(&frames[from.index(frames.len())..]), &[64]), &mut rest), Ok(()));
            if part.has_found() && part.has_led_up() {
                prop_assert_eq!(rest.to_vec(), written(&frames[cut..]));
            }
        }

        #[test]
        fn garbage_is_an_error_or_unfinished_but_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Frames::default().push(&bytes, &mut BytesMut::new());
        }
    }

    #[test]
    fn a_lost_connection_is_no_end() {
        let whole = body(&stamped(1, 7, b"line\n"), &[1000]);
        for cut in 0..whole.len() {
            let mut frames = Frames::default();
            assert_eq!(frames.push(&whole[..cut], &mut BytesMut::new()), Ok(()));
            assert!(!frames.is_over(), "cut at {cut}");
        }
    }

    #[test]
    fn what_the_engine_tells_is_no_output() {
        let mut bytes = stamped(1, 7, b"before\n");
        bytes.extend(frame(3, b"Error grabbing logs: unexpected EOF\n"));
        let mut output = BytesMut::new();
        let told = Frames::default().push(&body(&bytes, &[7]), &mut output);
        assert_eq!(told, Err(Garbled::Told("Error grabbing logs: unexpected EOF".to_owned())));
        assert_eq!(&output[..], b"before\n");
    }

    #[test]
    fn an_end_within_a_frame_is_an_error() {
        let bytes = stamped(1, 7, b"half of it");
        let ended = Frames::default().push(&body(&bytes[..40], &[1000]), &mut BytesMut::new());
        assert!(matches!(ended, Err(Garbled::Format(_))));
    }
}
