//! Prometheus metrics over plain HTTP, as small as that can be.

use std::fmt::Write;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::server::Counts;

/// Longer requests are cut; nothing in them matters.
const MAX_REQUEST: usize = 4096;
/// One scraper at a time, and none may dawdle.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers every request with the present counts, for ever.
pub async fn serve(listener: TcpListener, counts: impl Fn() -> Counts) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if !matches!(tokio::time::timeout(PATIENCE, answer(stream, &counts)).await, Ok(Ok(()))) {
                    log::debug!("a metrics request failed");
                }
            }
            Err(error) => {
                log::warn!("metrics: {error}");
                // Out of file descriptors, most likely: give them time to come back.
                tokio::time::sleep(PATIENCE).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, counts: &impl Fn() -> Counts) -> std::io::Result<()> {
    let mut request = Vec::with_capacity(MAX_REQUEST);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < MAX_REQUEST {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let body = text(&counts());
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

fn text(counts: &Counts) -> String {
    let lines: [(&str, &str, &str, u64); 6] = [
        ("clients", "gauge", "Clients connected now.", counts.clients as u64),
        ("records", "gauge", "Records now.", counts.records as u64),
        ("tokens", "gauge", "Tokens with records now.", counts.tokens as u64),
        ("connections_total", "counter", "Connections taken in.", counts.connections),
        ("registrations_total", "counter", "Messages accepted.", counts.registrations),
        ("refusals_total", "counter", "Connections and messages refused.", counts.refusals),
    ];
    let mut text = String::new();
    for (name, kind, help, value) in lines {
        let written = write!(
            text,
            "# HELP p2pfs_registry_{name} {help}\n# TYPE p2pfs_registry_{name} {kind}\np2pfs_registry_{name} {value}\n"
        );
        debug_assert!(written.is_ok(), "a string takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_scraper_gets_the_counts() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let counts = Counts { clients: 3, records: 5, tokens: 2, connections: 9, registrations: 20, refusals: 1 };
        let server = tokio::spawn(serve(listener, move || counts));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(answer.contains("\np2pfs_registry_records 5\n") && answer.ends_with("refusals_total 1\n"), "{answer}");
        server.abort();
    }
}
