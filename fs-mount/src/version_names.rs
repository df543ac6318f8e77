//! Names of the versions of a path: when each began to show here, and who made it.
//!
//! `2026-11-26T09:15:03.123Z~alice.txt`: the time is in UTC, with as many digits as keep the versions of that path apart;
//! where not even nanoseconds do, the later ones are numbered. Whoever types one needn't type more than the time.

use jiff::Timestamp;
use volume::{
    time,
    versions::{Author, PathVersion},
};

/// The moments of the versions of a path, as names, in the order given.
pub fn moments(versions: &[PathVersion]) -> Vec<String> {
    moments_of(&versions.iter().map(|version| version.shown).collect::<Vec<_>>())
}

fn moments_of(times: &[time::Timestamp]) -> Vec<String> {
    let mut names: Vec<String> = vec![String::new(); times.len()];
    let mut todo: Vec<usize> = (0..times.len()).collect();
    for digits in [3, 6, 9] {
        let mut by_name: Vec<(String, usize)> = todo.iter().map(|&i| (text(times[i], digits), i)).collect();
        by_name.sort();
        todo = by_name
            .chunk_by(|(a, _), (b, _)| a == b)
            .filter(|same| same.len() > 1)
            .flat_map(|same| same.iter().map(|(_, i)| *i))
            .collect();
        for (name, i) in by_name {
            names[i] = name;
        }
    }
    // Versions come one after the other, up or down; the same moment's are counted as they came.
    todo.sort_unstable();
    if times.first() > times.last() {
        todo.reverse();
    }
    let mut before: Option<(String, u32)> = None;
    for i in todo {
        let count = before.as_ref().filter(|(name, _)| *name == names[i]).map_or(1, |(_, count)| count + 1);
        before = Some((names[i].clone(), count));
        if count > 1 {
            names[i] = format!("{}+{count}", names[i].trim_end_matches('Z')) + "Z";
        }
    }
    names
}

/// The name of the file that a version is, of a path that ends in `last`.
pub fn file_name(moment: &str, author: &Author, last: &[u8]) -> Vec<u8> {
    let extension = match last.iter().rposition(|byte| *byte == b'.') {
        Some(dot) if dot > 0 && last.len() - dot <= EXTENSION_MAX => &last[dot..],
        _ => &[],
    };
    [moment.as_bytes(), b"~", author.name.as_bytes(), extension].concat()
}

/// What of a typed name is the moment.
pub fn moment_of(typed: &str) -> &str {
    typed.split('~').next().unwrap_or(typed)
}

/// Whether a name can be that of a version.
pub fn is_version(name: &[u8]) -> bool {
    std::str::from_utf8(name).is_ok_and(|name| {
        let moment = moment_of(name);
        let time = moment.split('+').next().unwrap_or(moment).trim_end_matches('Z');
        moment.ends_with('Z') && format!("{time}Z").parse::<Timestamp>().is_ok()
    })
}

/// The place of the version with a typed name among the versions that have these moments, the newest first. With fewer
/// digits than it takes, the last of those meant.
pub fn find(moments: &[String], typed: &str) -> Option<usize> {
    let moment = moment_of(typed);
    moments.iter().position(|name| name == moment).or_else(|| {
        let begin = moment.strip_suffix('Z')?;
        let whole = begin.len() >= "2026-11-26T09:15:03".len();
        moments.iter().position(|name| whole && name.starts_with(begin))
    })
}

/// Longest that is taken for one.
const EXTENSION_MAX: usize = 32;

/// A moment in UTC with so many digits, cut off.
pub fn text(time: time::Timestamp, digits: u32) -> String {
    let unit = 10_u32.pow(9 - digits);
    let nanos = i32::try_from(time.nanos / unit * unit).unwrap_or(0);
    match Timestamp::new(time.secs, nanos) {
        Ok(time) => format!("{time:.precision$}", precision = digits as usize),
        // No calendar has it.
        Err(_) => format!("{}.{:0digits$}Z", time.secs, time.nanos / unit, digits = digits as usize),
    }
}

/// A moment as people read it.
pub fn shown(time: time::Timestamp) -> String {
    text(time, 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64, nanos: u32) -> time::Timestamp {
        time::Timestamp { secs, nanos }
    }

    #[test]
    fn names_have_the_digits_that_keep_them_apart() {
        let times = [at(9, 5), at(8, 1_002_003), at(8, 1_002_001), at(8, 1_001_000), at(8, 1_001_000), at(7, 0)];
        let names = moments_of(&times);
        let expected = [
            "1970-01-01T00:00:09.000Z",
            "1970-01-01T00:00:08.001002003Z",
            "1970-01-01T00:00:08.001002001Z",
            "1970-01-01T00:00:08.001001000+2Z",
            "1970-01-01T00:00:08.001001000Z",
            "1970-01-01T00:00:07.000Z",
        ];
        assert_eq!(names, expected);
        for (place, name) in names.iter().enumerate() {
            assert_eq!(find(&names, name), Some(place));
            assert_eq!(find(&names, &format!("{name}~alice.tar.gz")), Some(place));
            assert!(is_version(name.as_bytes()) && is_version(format!("{name}~alice.txt").as_bytes()), "{name}");
        }
        assert_eq!(find(&names, "1970-01-01T00:00:08.001Z"), Some(1));
        assert_eq!(find(&names, "1970-01-01T00:00:09Z"), Some(0));
        assert_eq!(find(&names, "1970-01-01T00:00:06.000Z"), None);
        for none in ["", "Z", "1970Z", "~alice"] {
            assert_eq!(find(&names, none), None, "{none}");
            assert!(!is_version(none.as_bytes()), "{none}");
        }
    }

    #[test]
    fn files_keep_their_extension() {
        let author =
            |name: &str| Author { device: crypto::DeviceId::ZERO, user: crypto::UserId::ZERO, name: name.to_owned() };
        let check = |last: &str, expected: &str| {
            assert_eq!(file_name("T", &author("bob"), last.as_bytes()), expected.as_bytes(), "{last}");
        };
        check("notes.txt", "T~bob.txt");
        check("a.tar.gz", "T~bob.gz");
        check(".bashrc", "T~bob");
        check("Makefile", "T~bob");
        check(&format!("a.{}", "x".repeat(100)), "T~bob");
    }
}
