//! Where the page is served: loopback addresses, connections, and how many.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore};

use super::{Page, routes};
use crate::failure::{Because, Failure, Outcome};

/// Connections at a time; a browser has six, and more wait. Each has a descriptor.
const CONNECTIONS: usize = 96;
/// How long the head of a request may take, and how long a connection may be idle.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// After a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(200);
/// Ports that are tried, should one be free on one loopback address and not on the other.
const TRIES: usize = 16;

/// A loopback address that is listened at.
pub(super) struct Door(TcpListener);

/// Listens, at `port` or any free one. On both loopback addresses where there are two: browsers may take either for what ends in
/// `.localhost`, and nobody else on this machine is to get what is meant for this page.
pub(super) async fn open(port: Option<u16>) -> Outcome<(Vec<Door>, u16)> {
    for _ in 0..TRIES {
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, port.unwrap_or(0))).await;
        if let (Err(e), Some(port)) = (&bound, port)
            && e.kind() == std::io::ErrorKind::AddrInUse
        {
            return Err(in_use(port));
        }
        let first = bound.because(|| "serving the page".to_owned())?;
        let found = first.local_addr().because(|| "serving the page".to_owned())?.port();
        match TcpListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, found))).await {
            Ok(second) => return Ok((vec![Door(first), Door(second)], found)),
            // Somebody else has it there: another port, unless this one was asked for.
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
                if let Some(port) = port {
                    return Err(in_use(port));
                }
            }
            // A machine without IPv6.
            Err(_) => return Ok((vec![Door(first)], found)),
        }
    }
    Err(Failure::new("serving the page: no port is free on both loopback addresses: give one with --port"))
}

fn in_use(port: u16) -> Failure {
    Failure::new(format!("serving the page: port {port} is in use: choose another with --port"))
}

impl Door {
    /// Answers from now on. Called within the runtime.
    pub(super) fn serve(self, page: Arc<Page>) {
        tokio::spawn(self.accept(page));
    }

    async fn accept(self, page: Arc<Page>) {
        let router = routes::router(page);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            let Ok((stream, _)) = self.0.accept().await else {
                // Out of descriptors, most likely: they come back.
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let service = TowerToHyperService::new(router.clone());
            tokio::spawn(async move {
                let served = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIME)
                    .max_buf_size(64 << 10)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                if let Err(e) = served {
                    ::log::debug!("page: a connection ended: {e}");
                }
                drop(place);
            });
        }
    }
}
