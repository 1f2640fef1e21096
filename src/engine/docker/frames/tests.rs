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
