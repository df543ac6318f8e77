//! Durations as people type them: a whole number and a unit, `60s`, `15m`, `24h`, `7d`.

use std::time::Duration;

const UNITS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 60 * 60), ('d', 24 * 60 * 60)];
/// Ten years: anything longer is a slip of the finger.
const LONGEST: u64 = 10 * 365 * 24 * 60 * 60;

/// Reads a duration.
///
/// # Errors
/// The text to show beside the option it was given to.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wanted = || "a number and a unit is needed, such as 60s, 15m, 24h or 7d".to_owned();
    let unit = text.chars().next_back().ok_or_else(wanted)?;
    let (_, seconds) = UNITS.iter().find(|(u, _)| *u == unit).ok_or_else(wanted)?;
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wanted());
    }
    let too_long = || "more than ten years".to_owned();
    let total = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(*seconds)).ok_or_else(too_long)?;
    if total > LONGEST {
        return Err(too_long());
    }
    Ok(Duration::from_secs(total))
}

/// Reads a duration that isn't nothing.
pub(crate) fn parse_positive(text: &str) -> Result<Duration, String> {
    match parse(text)? {
        Duration::ZERO => Err("more than zero is needed".to_owned()),
        some => Ok(some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<u64>) {
        assert_eq!(parse(text).ok(), expected.map(Duration::from_secs), "{text:?}");
    }

    #[test]
    fn units() {
        check("60s", Some(60));
        check("15m", Some(900));
        check("24h", Some(86_400));
        check("7d", Some(604_800));
        check("0s", Some(0));
    }

    #[test]
    fn what_is_no_duration() {
        for text in ["", "s", "60", "-1s", "+1s", "1.5h", "1h30m", " 1s", "1 s", "1w", "1é", "é"] {
            check(text, None);
        }
        check("99999999999999999999s", None);
        check("9999999999999999d", None);
        check("3651d", None);
    }

    #[test]
    fn nothing_is_not_positive() {
        assert!(parse_positive("0m").is_err());
        assert!(parse_positive("1m").is_ok());
    }
}
