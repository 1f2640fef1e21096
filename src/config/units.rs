//! Durations, sizes, numbers of CPUs and flags as people write them.

use std::time::Duration;

/// A duration: a number and s, m, h or d (or ms). At most 10 years.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\" is not a duration such as 30s, 5m, 1h or 7d");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let ms = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let total = number.checked_mul(ms).filter(|total| *total <= 3650 * 86_400_000).ok_or_else(wrong)?;
    Ok(Duration::from_millis(total))
}

/// A size in bytes: a number, and B, KiB, MiB or GiB.
pub(super) fn size(text: &str, min: u64) -> Result<u64, String> {
    let wrong = || format!("\"{text}\" is not a size such as 512KiB, 64MiB or 1GiB, of at least {min} bytes");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit: u64 = match text[digits..].trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).filter(|size| *size >= min && *size < 1 << 50).ok_or_else(wrong)
}

/// CPUs, in thousandths.
pub(super) fn millicpus(text: &str) -> Result<u64, String> {
    let wrong = || "must be a number of CPUs from 0.01 to 1024, such as 2 or 0.5".to_owned();
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    if part.is_empty() || part.len() > 3 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let part: u64 = format!("{part:0<3}").parse().map_err(|_| wrong())?;
    let total = whole.saturating_mul(1000).saturating_add(part);
    if (10..=1_024_000).contains(&total) { Ok(total) } else { Err(wrong()) }
}

/// `true` or `false`.
pub(super) fn flag(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "must be true or false".to_owned())
}

/// A text as the user part of a URL may hold it.
pub(super) fn percent_encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_read_as_people_write_them() {
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(size("64MiB", 0), Ok(64 << 20));
        assert_eq!(size("17", 0), Ok(17));
        assert_eq!(millicpus("2"), Ok(2000));
        assert_eq!(millicpus("0.5"), Ok(500));
        assert_eq!(millicpus("1.25"), Ok(1250));
        assert_eq!(percent_encode("a:b@/ö"), "a%3Ab%40%2F%C3%B6");
        for bad in ["", "5", "m", "-1s", "1 h", "1.5h", "99999999999d"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "1GB", "x", "0"] {
            assert!(size(bad, 1).is_err(), "{bad:?}");
        }
        for bad in ["", "0", "1.", "1.2345", "-1", "9999"] {
            assert!(millicpus(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_a_parser_panic(text in any::<String>()) {
            let _ = (duration(&text), size(&text, 1), millicpus(&text), flag(&text));
        }
    }
}
