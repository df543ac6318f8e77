//! Why a command failed: the one line its user reads.
//!
//! Invariant: one line, lower case, and where there is a next step it names it. Layers add what they know with
//! [`Because`], once; nothing here is logged.

use std::{fmt, io};

/// The result of anything a command does.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// One line for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure(String);

impl Failure {
    /// A failure told by `text`; line breaks in it become spaces, and the numbers of system errors go.
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        let lines: Vec<&str> = text.as_ref().lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        Self(without_numbers(&lines.join(" ")))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<volume::Error> for Failure {
    fn from(error: volume::Error) -> Self {
        match error {
            volume::Error::Io(e) => Failure::new(plain(&e)),
            other => Failure::new(other.to_string()),
        }
    }
}

/// Says what was being done when something failed.
pub(crate) trait Because<T> {
    /// Turns the error into `what: error`.
    fn because(self, what: impl FnOnce() -> String) -> Outcome<T>;
}

impl<T> Because<T> for io::Result<T> {
    fn because(self, what: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|e| Failure::new(format!("{}: {}", what(), plain(&e))))
    }
}

impl<T> Because<T> for rustix::io::Result<T> {
    fn because(self, what: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(io::Error::from).because(what)
    }
}

impl<T> Because<T> for volume::Result<T> {
    fn because(self, what: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|e| Failure::new(format!("{}: {}", what(), Failure::from(e))))
    }
}

/// Takes the ` (os error 2)` out that the standard library adds.
fn without_numbers(text: &str) -> String {
    const NUMBER: &str = " (os error ";
    let mut parts = text.split(NUMBER);
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(')') {
            Some((number, rest)) if number.bytes().all(|b| b.is_ascii_digit()) => plain.push_str(rest),
            _ => {
                plain.push_str(NUMBER);
                plain.push_str(part);
            }
        }
    }
    plain
}

/// An I/O error as people say it: without the number, in lower case.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = without_numbers(&error.to_string());
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => "unknown error".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line() {
        assert_eq!(Failure::new("mount failed:\n  no such device\n").to_string(), "mount failed: no such device");
    }

    #[test]
    fn numbers_of_system_errors_go() {
        let check = |text: &str, expected: &str| assert_eq!(Failure::new(text).to_string(), expected);
        check("a: no such file (os error 2): b (os error 13)", "a: no such file: b");
        check("a (os error x)", "a (os error x)");
        check("a (os error 2", "a (os error 2");
    }

    #[test]
    fn system_errors_read_like_the_rest() {
        assert_eq!(plain(&io::Error::from_raw_os_error(2)), "no such file or directory");
    }
}
