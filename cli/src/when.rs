//! Times in JSONL: numbers, whose unit their magnitude tells, and text.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Numbers below this count seconds: up to the year 5138.
const SECONDS: u64 = 100_000_000_000;
/// Numbers below this count milliseconds, from the year 1973 on.
const MILLIS: u64 = SECONDS * 1_000;
/// Numbers below this count microseconds, and all above nanoseconds.
const MICROS: u64 = MILLIS * 1_000;

/// What a text of milliseconds ends in.
const UNIT: &str = "ms";

pub(crate) const MEND: &str = "write the time as 2024-05-15T15:00:00Z, or as a number since 1970: \
                               seconds, milliseconds, microseconds and nanoseconds are told apart \
                               by their magnitude";

/// Reads a number as JSON has it, as milliseconds since 1970.
pub(crate) fn of_number(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let number: u64 = whole.parse().ok()?;
    Some(match number {
        0..SECONDS => {
            // The first three digits of the fraction, with zeros for those that are not there.
            let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(3);
            let millis = digits.fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
            number * 1_000 + millis
        }
        SECONDS..MILLIS => number,
        MILLIS..MICROS => number / 1_000,
        _ => number / 1_000_000,
    })
}

/// Reads a text: a date and time of ISO 8601, in UTC where it names no offset, or `123ms`.
pub(crate) fn of_text(text: &str) -> Option<u64> {
    if let Some(millis) = text.strip_suffix(UNIT) {
        return is_digits(millis).then(|| millis.parse().ok()).flatten();
    }
    let utc = || TimeZone::UTC.to_timestamp(text.parse::<DateTime>().ok()?).ok();
    let time = text.parse::<Timestamp>().ok().or_else(utc)?;
    u64::try_from(time.as_millisecond()).ok()
}

/// Writes milliseconds since 1970 as JSON that reads back as the same.
pub(crate) fn write(millis: u64) -> String {
    if millis == 0 || (SECONDS..MILLIS).contains(&millis) {
        millis.to_string()
    } else {
        format!("\"{millis}{UNIT}\"")
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 1_715_785_200_123;

    #[test]
    fn the_magnitude_of_a_number_tells_its_unit() {
        for text in ["1715785200.123", "1715785200.1239", "1715785200123", "1715785200123456"] {
            assert_eq!(of_number(text), Some(AT), "{text}");
        }
        assert_eq!(of_number("1715785200123456789"), Some(AT));
        assert_eq!(of_number("1715785200"), Some(1_715_785_200_000));
        assert_eq!(of_number("1715785200.5"), Some(1_715_785_200_500));
        assert_eq!((of_number("0"), of_number("1")), (Some(0), Some(1_000)));
        assert_eq!(of_number("99999999999"), Some(99_999_999_999_000));
        assert_eq!(of_number("100000000000"), Some(100_000_000_000));
        assert_eq!(of_number("18446744073709551615"), Some(18_446_744_073_709));
        for wrong in ["-1", "1e9", "1.", ".5", "", "18446744073709551616", "+1", "1.5e3"] {
            assert_eq!(of_number(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn texts_are_dates_and_times() {
        for text in [
            "2024-05-15T15:00:00.123Z",
            "2024-05-15T15:00:00.123456+00:00",
            "2024-05-15 15:00:00.123",
            "2024-05-15T10:00:00.123-05:00",
            "2024-05-15T15:00:00.123[UTC]",
            "1715785200123ms",
        ] {
            assert_eq!(of_text(text), Some(AT), "{text}");
        }
        assert_eq!(of_text("2024-05-15"), Some(1_715_731_200_000));
        for wrong in ["yesterday", "15.05.2024", "1969-12-31T23:59:59Z", "", "ms", "-1ms", "24:00"]
        {
            assert_eq!(of_text(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for millis in [0, 1, 99, SECONDS - 1, SECONDS, AT, MILLIS - 1, MILLIS, u64::MAX] {
            let text = write(millis);
            let back = match text.strip_prefix('"') {
                Some(text) => of_text(text.trim_end_matches('"')),
                None => of_number(&text),
            };
            assert_eq!(back, Some(millis), "{text}");
        }
    }
}
