//! Parts of files, for a browser that goes on with a download where it was cut (RFC 9110, section 14).

/// What of a file is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    All,
    /// So many bytes from here on.
    Part {
        from: u64,
        length: u64,
    },
    /// Nothing that there is.
    Nothing,
}

/// What the headers `Range` and `If-Range` want of a file of `size` bytes whose version `tag` names. Several parts at once, and
/// what is spelt wrongly, get all of it, as the standard lets a server do.
pub(super) fn wanted(range: Option<&str>, if_range: Option<&str>, tag: &str, size: u64) -> Wanted {
    let Some((first, last)) =
        range.and_then(|range| range.strip_prefix("bytes=")).and_then(|range| range.split_once('-'))
    else {
        return Wanted::All;
    };
    // Of another version the rest would be of no use.
    if if_range.is_some_and(|version| version != tag) {
        return Wanted::All;
    }
    let number =
        |text: &str| text.bytes().all(|digit| digit.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let (from, end) = match (number(first.trim()), number(last.trim())) {
        (Some(from), Some(last)) if from <= last => (from, last.saturating_add(1).min(size)),
        (Some(from), None) if last.trim().is_empty() => (from, size),
        (None, Some(count)) if first.trim().is_empty() => (size.saturating_sub(count), size),
        _ => return Wanted::All,
    };
    if from < end { Wanted::Part { from, length: end - from } } else { Wanted::Nothing }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_within_the_file() {
        let check = |range: &str, expected| assert_eq!(wanted(Some(range), None, "\"a\"", 10), expected, "{range}");
        let part = |from, length| Wanted::Part { from, length };
        check("bytes=0-3", part(0, 4));
        check("bytes=4-", part(4, 6));
        check("bytes=-3", part(7, 3));
        check("bytes=-30", part(0, 10));
        check("bytes=8-20", part(8, 2));
        check("bytes=0-18446744073709551615", part(0, 10));
        check("bytes=10-", Wanted::Nothing);
        check("bytes=-0", Wanted::Nothing);
        for all in [
            "bytes=0-1,4-5",
            "bytes=3-2",
            "bytes=-",
            "bytes=a-b",
            "lines=0-1",
            "bytes=+1-2",
            "bytes=99999999999999999999-",
        ] {
            check(all, Wanted::All);
        }
        assert_eq!(wanted(None, None, "\"a\"", 10), Wanted::All);
    }

    #[test]
    fn of_another_version_all_is_sent() {
        assert_eq!(wanted(Some("bytes=4-"), Some("\"b\""), "\"a\"", 10), Wanted::All);
        assert_eq!(wanted(Some("bytes=4-"), Some("\"a\""), "\"a\"", 10), Wanted::Part { from: 4, length: 6 });
    }
}
