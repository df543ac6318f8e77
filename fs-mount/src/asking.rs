//! Questions to whoever sits at the terminal: asked on standard error, answered on standard input.

use std::io::{self, BufRead, IsTerminal, Read as _, Write as _};

use crate::{
    failure::{Because, Failure, Outcome},
    output::printable,
};

/// Nobody types more.
const ANSWER_LIMIT: u64 = 4096;

/// Whether somebody can be asked.
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Tells something.
pub(crate) fn tell(text: &str) {
    // When standard error is gone, nobody reads it.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Asks until `check` takes the answer. An empty one stands for `default`, where there is one.
pub(crate) fn ask<T>(question: &str, default: Option<&str>, check: impl Fn(&str) -> Result<T, String>) -> Outcome<T> {
    ask_from(&mut io::stdin().lock(), question, default, check)
}

fn ask_from<T>(
    answers: &mut dyn BufRead,
    question: &str,
    default: Option<&str>,
    check: impl Fn(&str) -> Result<T, String>,
) -> Outcome<T> {
    let shown = default.filter(|text| !text.is_empty()).map(|text| format!(" [{}]", printable(text)));
    loop {
        let mut err = io::stderr().lock();
        let _ = write!(err, "{question}{}: ", shown.as_deref().unwrap_or_default()).and_then(|()| err.flush());
        drop(err);
        let mut line = String::new();
        let read = answers.take(ANSWER_LIMIT).read_line(&mut line).because(|| "reading the answer".to_owned())?;
        if read == 0 {
            return Err(Failure::new("there was no answer: nothing was done"));
        }
        let answer = match (line.trim(), default) {
            ("", Some(default)) => default,
            (answer, _) => answer,
        };
        match check(answer) {
            Ok(taken) => return Ok(taken),
            Err(why) => tell(&format!("  {why}")),
        }
    }
}

/// `yes` or `no`.
pub(crate) fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(true),
        "n" | "no" => Ok(false),
        _ => Err("yes or no?".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(text: &str, default: Option<&str>) -> Outcome<String> {
        let check =
            |text: &str| if text.is_empty() { Err("something is needed".to_owned()) } else { Ok(text.to_owned()) };
        ask_from(&mut text.as_bytes(), "what", default, check)
    }

    #[test]
    fn it_asks_until_the_answer_can_be_taken() {
        assert_eq!(answered("\n\n  so \n", None).unwrap(), "so");
        assert_eq!(answered("\n", Some("alice")).unwrap(), "alice");
        assert!(answered("\n\n", None).unwrap_err().to_string().contains("there was no answer"));
        assert!(yes_or_no("Y").unwrap() && !yes_or_no("no").unwrap());
        assert!(yes_or_no("maybe").is_err());
    }
}
