//! What Prometheus does: asks for a page of metrics, and takes nothing that isn't one.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

/// A page of metrics.
#[derive(Debug, Default)]
pub struct Scraped {
    /// Names, with what they are: `counter` or `gauge`.
    pub families: BTreeMap<String, String>,
    /// Values by name and labels, as they are written.
    pub values: BTreeMap<String, f64>,
}

impl Scraped {
    /// The sum of all values of a metric whose labels have all of these in them.
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        assert!(self.families.contains_key(name), "there is no {name}");
        let of_name = self.values.iter().filter(|(series, _)| series.split('{').next() == Some(name));
        of_name.filter(|(series, _)| labels.iter().all(|label| series.contains(label))).map(|(_, value)| value).sum()
    }
}

/// An address of a TCP port that nobody has now.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Sends `request`; the whole answer.
pub fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Scrapes a page, which must be in the text format.
pub fn scrape(address: SocketAddr) -> Scraped {
    let answer = ask(address, &format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nAccept: text/plain\r\n\r\n"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(head.contains("Content-Type: text/plain; version=0.0.4"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    parse(body)
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Reads a page; whatever is not as the format and its conventions have it fails the test.
pub fn parse(text: &str) -> Scraped {
    assert!(text.ends_with('\n'));
    let (mut scraped, mut helped, mut current) = (Scraped::default(), BTreeSet::new(), String::new());
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => {
                assert!(is_name(name) && help.ends_with('.'), "{line}");
                assert!(helped.insert(name.to_owned()), "twice: {line}");
            }
            ["#", "TYPE", name, kind] => {
                assert!(helped.contains(name) && (kind == "counter" || kind == "gauge"), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(scraped.families.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
                name.clone_into(&mut current);
            }
            _ => {
                let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
                let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
                assert_eq!(name, current, "values come right after their type: {line}");
                let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"));
                for label in labels.split(',').filter(|label| !label.is_empty()) {
                    let (label, value) = label.split_once('=').unwrap_or_else(|| panic!("{line}"));
                    assert!(
                        is_name(label) && value.len() >= 2 && value.starts_with('"') && value.ends_with('"'),
                        "{line}"
                    );
                }
                let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
                assert!(value.is_finite() && value >= 0.0, "{line}");
                assert!(scraped.values.insert(series.to_owned(), value).is_none(), "twice: {line}");
            }
        }
    }
    scraped
}
