//! Standard output: what was asked for, as a table for people or as JSON for programs.

use std::io::{self, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::failure::{Because, Outcome};

/// Prints one line; whatever is in it stays in it ([`printable`]).
pub(crate) fn line(text: &str) -> Outcome<()> {
    raw(format!("{}\n", printable(text)).as_bytes())
}

/// Prints lines, each as [`line`] does.
pub(crate) fn lines(lines: &[String]) -> Outcome<()> {
    let text: String = lines.iter().map(|line| printable(line) + "\n").collect();
    raw(text.as_bytes())
}

/// `text` with what moves a terminal's cursor, or turns the order of its letters round, spelt out: names come from others.
pub(crate) fn printable(text: &str) -> String {
    let turns =
        |c: char| matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || turns(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// Prints bytes as they are. A reader that has gone away (`| head`) is no failure.
pub(crate) fn raw(bytes: &[u8]) -> Outcome<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.because(|| "writing to standard output".to_owned()),
    }
}

/// Whether standard output still leads somewhere: what goes on until it is interrupted ends when nobody reads it any more.
pub(crate) fn is_read() -> bool {
    let out = io::stdout();
    let mut ends = [PollFd::new(&out, PollFlags::empty())];
    // What can't be asked (it never happens) shows at the next write.
    poll(&mut ends, Some(&Timespec::default())).is_err()
        || !ends[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

/// Prints a remark beside the result, on standard error.
pub(crate) fn note(text: &str) {
    // When even standard error is gone, nobody reads it.
    let _ = writeln!(io::stderr().lock(), "p2pfs: {}", printable(text));
}

/// Prints `value` as JSON.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> Outcome<()> {
    let text = serde_json::to_string_pretty(value).expect("a report can be encoded");
    raw(format!("{text}\n").as_bytes())
}

/// Prints a table: a head and rows, columns as wide as they need to be.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> Outcome<()> {
    lines(&layout(head, rows))
}

/// The lines of a table.
pub(crate) fn layout(head: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    // As wide as they are shown.
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            let cells = std::iter::once(&head).chain(&rows).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let lines = std::iter::once(&head).chain(&rows).map(|row| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    });
    lines.collect()
}

/// A number of bytes for people: `4.2 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `1 commit`, `2 commits`.
pub(crate) fn count(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["alice".to_owned(), "owner".to_owned()], vec!["é".to_owned(), String::new()]];
        assert_eq!(layout(&["name", "role"], &rows), ["name   role", "alice  owner", "é"]);
        let rows = [vec!["a\n".to_owned(), "b".to_owned()]];
        assert_eq!(layout(&["x", "y"], &rows), ["x    y", "a\\n  b"]);
    }

    #[test]
    fn names_move_no_cursor_and_make_no_lines() {
        let check = |text: &str, expected: &str| assert_eq!(printable(text), expected);
        check("a b\\é 日本", "a b\\é 日本");
        check("a\nrestored b\r\t", "a\\nrestored b\\r\\t");
        check("\u{1b}[2J\u{9b}1A\u{7f}", "\\u{1b}[2J\\u{9b}1A\\u{7f}");
        check("a\u{202e}txt.exe\u{2028}", "a\\u{202e}txt.exe\\u{2028}");
        check("a\u{61c}1", "a\\u{61c}1");
        check(&printable("a\n"), "a\\n");
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
    }
}
