//! Metrics over plain HTTP, as Prometheus reads them: for whatever serves.
//!
//! Owns the text format and the door. Whoever reaches the door may be hostile, a web page in this machine's browser included:
//! requests are bounded in size, time and number, and whatever is asked, one page a second is gathered at most. Nothing but
//! `GET /metrics` is answered. On a loopback address it must be asked for by a loopback name, which a page that had its own name
//! lead here can't do (DNS rebinding).

use std::collections::VecDeque;
use std::fmt::{Display, Write};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// Scrapers send a few hundred bytes.
const MAX_REQUEST: usize = 8192;
const MAX_HEADERS: usize = 64;
/// Callers at a time. With one more, the one that came first has to go: who only asks for the page is gone by then.
const CALLERS: usize = 16;
/// How long one may take, from the first byte of the request to the last of the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// For how long a page is good.
const FRESH: Duration = Duration::from_secs(1);
/// After a caller could not be accepted: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Whether a number only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It does, until the program starts again.
    Counter,
    /// It comes and goes.
    Gauge,
}

/// What scrapers read: the text format, version 0.0.4.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page(String);

/// A metric of a page, for its values.
#[derive(Debug)]
pub struct Family<'a> {
    page: &'a mut String,
    name: &'a str,
}

impl Page {
    /// Begins a metric. Its values come before the next one begins.
    pub fn family<'a>(&'a mut self, name: &'a str, kind: Kind, help: &str) -> Family<'a> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        append(&mut self.0, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { page: &mut self.0, name }
    }

    /// Adds a metric without labels.
    pub fn single(&mut self, name: &str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help).value(&[], value);
    }

    /// The text.
    pub fn into_text(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// Adds a value.
    pub fn value(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.page.push_str(self.name);
        for (n, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
            append(self.page, format_args!("{}{label}=\"{text}\"", if n == 0 { '{' } else { ',' }));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        append(self.page, format_args!("{end} {value}\n"));
    }
}

fn append(text: &mut String, what: std::fmt::Arguments<'_>) {
    let written = text.write_fmt(what);
    debug_assert!(written.is_ok(), "a string takes everything");
}

/// Answers scrapers with what `gather` gives, until it is dropped.
pub async fn serve<G, F>(listener: TcpListener, gather: G)
where
    G: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Page> + Send + 'static,
{
    // What listens to other machines was opened to them, under whatever name they know it by.
    let any_name = listener.local_addr().is_ok_and(|address| !address.ip().to_canonical().is_loopback());
    let door = Arc::new(Door { gather, any_name, last: Mutex::new(None) });
    let (mut callers, mut in_order) = (JoinSet::new(), VecDeque::new());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                while callers.try_join_next().is_some() {}
                in_order.retain(|caller: &AbortHandle| !caller.is_finished());
                if in_order.len() >= CALLERS
                    && let Some(first) = in_order.pop_front()
                {
                    first.abort();
                }
                let door = door.clone();
                in_order.push_back(callers.spawn(async move {
                    if !matches!(timeout(PATIENCE, door.answer(stream)).await, Ok(Ok(()))) {
                        log::debug!("a request for metrics came to nothing");
                    }
                }));
            }
            Err(error) => {
                log::warn!("metrics: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

struct Door<G> {
    gather: G,
    any_name: bool,
    /// The page that was gathered last. Held while the next one is.
    last: Mutex<Option<(Instant, Arc<str>)>>,
}

impl<G, F> Door<G>
where
    G: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Page> + Send + 'static,
{
    async fn answer(self: Arc<Self>, mut stream: TcpStream) -> std::io::Result<()> {
        let mut request = Vec::new();
        let refused = loop {
            match check(&request, self.any_name) {
                Checked::Good => break None,
                Checked::Refused(status) => break Some(status),
                Checked::Unfinished => {}
            }
            if (&mut stream).take(1024).read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        };
        let (status, kind, body) = match refused {
            None => {
                // Goes on when its caller has to go: no other page is gathered beside it.
                let page = tokio::spawn(self.page()).await.map_err(std::io::Error::other)?;
                ("200 OK", "text/plain; version=0.0.4; charset=utf-8", page)
            }
            Some(status) => (status, "text/plain; charset=utf-8", format!("{status}\n").into()),
        };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        stream.shutdown().await
    }

    async fn page(self: Arc<Self>) -> Arc<str> {
        let mut last = self.last.lock().await;
        if let Some((since, page)) = &*last
            && since.elapsed() < FRESH
        {
            return page.clone();
        }
        let page: Arc<str> = (self.gather)().await.into_text().into();
        *last = Some((Instant::now(), page.clone()));
        page
    }
}

/// What is to be said to what came so far of a request.
#[derive(Debug, PartialEq, Eq)]
enum Checked {
    Good,
    Refused(&'static str),
    Unfinished,
}

fn check(request: &[u8], any_name: bool) -> Checked {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(request) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if request.len() < MAX_REQUEST => return Checked::Unfinished,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Checked::Refused("431 Request Header Fields Too Large");
        }
        Err(_) => return Checked::Refused("400 Bad Request"),
    }
    let mut hosts = parsed.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return Checked::Refused("400 Bad Request") };
    if !any_name && !std::str::from_utf8(host.value).is_ok_and(is_loopback_name) {
        return Checked::Refused("421 Misdirected Request");
    }
    match (parsed.method, parsed.path) {
        (Some("GET"), Some("/metrics")) => Checked::Good,
        (Some("GET"), _) => Checked::Refused("404 Not Found"),
        _ => Checked::Refused("405 Method Not Allowed"),
    }
}

/// Whether the value of a Host header is a loopback name or address, whatever the port.
fn is_loopback_name(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, port)) => {
            let loopback = name.parse::<Ipv6Addr>().is_ok_and(|ip| IpAddr::from(ip).to_canonical().is_loopback());
            (loopback, port.strip_prefix(':').or(port.is_empty().then_some("0")))
        }
        None => {
            let (name, port) = host.split_once(':').unwrap_or((host, "0"));
            let loopback = name.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback());
            (loopback || name.eq_ignore_ascii_case("localhost"), Some(port))
        }
    };
    name && port.is_some_and(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    async fn start() -> (SocketAddr, Arc<AtomicU64>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let gathered = Arc::new(AtomicU64::new(0));
        let count = gathered.clone();
        tokio::spawn(serve(listener, move || {
            let nth = count.fetch_add(1, Ordering::Relaxed) + 1;
            async move {
                let mut page = Page::default();
                page.single("p2pfs_pages", Kind::Gauge, "Pages.", nth);
                page
            }
        }));
        (address, gathered)
    }

    async fn ask(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[test]
    fn what_is_told_is_in_the_text_format() {
        let mut page = Page::default();
        page.single("p2pfs_up", Kind::Gauge, "Whether\nit \\ is.", 1.5);
        let mut family = page.family("p2pfs_calls_total", Kind::Counter, "Calls.");
        family.value(&[("op", "read"), ("why", "a \"b\"\\\n")], 3);
        family.value(&[("op", "write")], 4);
        let expected = "# HELP p2pfs_up Whether\\nit \\\\ is.\n# TYPE p2pfs_up gauge\np2pfs_up 1.5\n\
            # HELP p2pfs_calls_total Calls.\n# TYPE p2pfs_calls_total counter\n\
            p2pfs_calls_total{op=\"read\",why=\"a \\\"b\\\"\\\\\\n\"} 3\np2pfs_calls_total{op=\"write\"} 4\n";
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    fn loopback_names() {
        for good in
            ["localhost", "LocalHost:9477", "127.0.0.1", "127.8.0.1:80", "[::1]", "[::1]:9477", "[::ffff:127.0.0.1]"]
        {
            assert!(is_loopback_name(good), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "evil.example:9477",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "[::2]:9477",
            "[::1",
            "::1",
            "[::1]evil",
            "[::1]:x",
            "localhost:",
            "localhost:80:80",
            "localhost ",
            "0.0.0.0",
            "127.0.0.1@evil",
        ] {
            assert!(!is_loopback_name(bad), "{bad}");
        }
    }

    #[test]
    fn nothing_but_that_page_is_answered() {
        let said = |request: &str| check(request.as_bytes(), false);
        assert_eq!(said("GET /metrics HTTP/1.1\r\nHost: localhost:1\r\n\r\n"), Checked::Good);
        let misdirected = Checked::Refused("421 Misdirected Request");
        assert_eq!(said("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n"), misdirected);
        assert_eq!(said("POST /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n"), misdirected);
        let bad = Checked::Refused("400 Bad Request");
        assert_eq!(said("GET /metrics HTTP/1.1\r\n\r\n"), bad);
        assert_eq!(said("GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"), bad);
        assert_eq!(said("\x16\x03\x01 this is TLS"), bad);
        assert_eq!(said("POST /metrics HTTP/1.1\r\nHost: [::1]\r\n\r\n"), Checked::Refused("405 Method Not Allowed"));
        for path in ["/", "/metrics/", "/metrics?x", "http://localhost/metrics"] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            assert_eq!(said(&request), Checked::Refused("404 Not Found"), "{path}");
        }
        assert_eq!(said("GET /metrics HTTP/1.1\r\nHost: loc"), Checked::Unfinished);
        let large = Checked::Refused("431 Request Header Fields Too Large");
        assert_eq!(said(&format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(MAX_REQUEST))), large);
        assert_eq!(said(&format!("GET /metrics HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(MAX_HEADERS + 1))), large);
        let other = b"GET /metrics HTTP/1.1\r\nHost: registry.example:9100\r\n\r\n";
        assert_eq!(check(other, true), Checked::Good, "opened to other machines");
    }

    #[tokio::test]
    async fn a_scraper_gets_the_page_and_many_get_one() {
        let (address, gathered) = start().await;
        for _ in 0..20 {
            let answer = ask(address, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\np2pfs_pages 1\n"), "{answer}");
        }
        assert_eq!(gathered.load(Ordering::Relaxed), 1);
        let answer = ask(address, b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 421 ") && !answer.contains("p2pfs"), "{answer}");
    }

    #[tokio::test]
    async fn who_dawdles_keeps_nobody_out() {
        let (address, _) = start().await;
        let mut silent = Vec::new();
        for _ in 0..10 * CALLERS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let began = Instant::now();
        for _ in 0..3 {
            let answer = ask(address, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        }
        assert_eq!(silent[0].read(&mut [0]).await.unwrap_or(0), 0, "who came first had to go");
        assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    }
}
