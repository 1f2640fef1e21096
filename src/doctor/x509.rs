//! From when until when a certificate is good, read out of its DER.
//!
//! rustls has looked at the rest of it, and does not tell these two. The way to them (RFC 5280, 4.1): the certificate, in it the
//! part that is signed, in that version (may be absent), serial number, algorithm, issuer, and then the validity.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The version, `[0] EXPLICIT`.
const VERSION: u8 = 0xa0;

/// A time span, both ends included, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from_ms: i64,
    pub(super) until_ms: i64,
}

/// None: it is not of that form.
pub(super) fn validity(der: &[u8]) -> Option<Validity> {
    let mut certificate = Der(der).enter(SEQUENCE)?;
    let mut signed = certificate.enter(SEQUENCE)?;
    if signed.0.first() == Some(&VERSION) {
        signed.enter(VERSION)?;
    }
    signed.enter(INTEGER)?;
    signed.enter(SEQUENCE)?;
    signed.enter(SEQUENCE)?;
    let mut validity = signed.enter(SEQUENCE)?;
    Some(Validity { from_ms: validity.time()?, until_ms: validity.time()? })
}

/// What is left to read.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Takes the next element and returns its tag and content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            // Of indefinite length, which DER does not have, or longer than any certificate.
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn enter(&mut self, expected: u8) -> Option<Self> {
        let (tag, content) = self.next()?;
        (tag == expected).then_some(Self(content))
    }

    /// `YYMMDDhhmmssZ` (years 1950 to 2049) or `YYYYMMDDhhmmssZ`.
    fn time(&mut self) -> Option<i64> {
        let (tag, content) = self.next()?;
        let text = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let (year, rest) = text.split_at_checked(if tag == GENERALIZED_TIME { 4 } else { 2 })?;
        let year: i16 = match (tag, year.parse().ok()?) {
            (GENERALIZED_TIME, year) => year,
            (UTC_TIME, year @ 0..50) => 2000 + year,
            (UTC_TIME, year) => 1900 + year,
            _ => return None,
        };
        let part = |index: usize| rest.get(2 * index..2 * index + 2)?.parse::<i8>().ok();
        if rest.len() != 10 {
            return None;
        }
        let date = Date::new(year, part(0)?, part(1)?).ok()?;
        let time: DateTime = date.to_datetime(jiff::civil::Time::new(part(2)?, part(3)?, part(4)?, 0).ok()?);
        Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_millisecond())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn made(from: i32, until: i32) -> Vec<u8> {
        let mut wanted = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        wanted.not_before = rcgen::date_time_ymd(from, 1, 2);
        wanted.not_after = rcgen::date_time_ymd(until, 3, 4);
        let key = rcgen::KeyPair::generate().expect("a key");
        wanted.self_signed(&key).expect("a certificate").der().to_vec()
    }

    fn ms(text: &str) -> i64 {
        text.parse::<jiff::Timestamp>().expect("a time").as_millisecond()
    }

    #[test]
    fn both_ends_are_read_in_both_forms() {
        assert_eq!(
            validity(&made(2020, 2030)),
            Some(Validity { from_ms: ms("2020-01-02T00:00:00Z"), until_ms: ms("2030-03-04T00:00:00Z") })
        );
        assert_eq!(
            validity(&made(1975, 2075)),
            Some(Validity { from_ms: ms("1975-01-02T00:00:00Z"), until_ms: ms("2075-03-04T00:00:00Z") })
        );
    }

    #[test]
    fn what_is_cut_off_is_not_read() {
        let whole = made(2020, 2030);
        assert!((0..whole.len()).all(|length| validity(&whole[..length]).is_none()));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(at in 0usize..400, byte in any::<u8>(), noise in any::<Vec<u8>>()) {
            static CERTIFICATE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| made(2020, 2030));
            let mut changed = CERTIFICATE.clone();
            let length = changed.len();
            changed[at % length] = byte;
            let _ = (validity(&changed), validity(&noise));
        }
    }
}
