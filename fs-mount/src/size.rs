//! Sizes as people type them: a whole number and a unit, `500MiB`, `20GiB`.

const UNITS: [(&str, u64); 5] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("B", 1)];

/// Reads a size that isn't nothing.
///
/// # Errors
/// The text to show beside the option it was given to.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let found = UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
    let digits = found.filter(|(digits, _)| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
    let size = digits.and_then(|(digits, unit)| digits.parse::<u64>().ok()?.checked_mul(unit));
    size.filter(|size| *size > 0).ok_or_else(|| "a number and a unit is needed, such as 500MiB or 20GiB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_and_a_unit() {
        for (text, size) in [("1B", 1), ("64KiB", 65_536), ("3MiB", 3 << 20), ("20GiB", 20 << 30), ("1TiB", 1 << 40)] {
            assert_eq!(parse(text), Ok(size), "{text}");
        }
        for bad in ["", "B", "5", "0GiB", "5GB", "-1B", "1.5GiB", "+1B", "99999999999TiB", "GiB5"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
