//! One UDP socket per volume, for listening and for dialling.
//!
//! Everything goes out of the socket that is listened on: what a NAT or a registry sees as our source is then an
//! address at which others can reach us. All buffers have bounds: a connection holds at most its windows.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crypto::DeviceId;
use quinn::congestion::CubicConfig;
use quinn::{EndpointConfig, MtuDiscoveryConfig, TokioRuntime, TransportConfig, VarInt};
use socket2::{Domain, Socket, Type};
use thiserror::Error;

use crate::identity::{Identity, IdentityError, Protocol};
use crate::interfaces;

const KEEP_ALIVE: Duration = Duration::from_secs(15);
const IDLE_TIMEOUT: Duration = Duration::from_secs(45);
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const SEND_WINDOW: u64 = 16 << 20;
/// The control stream and the block requests a peer may have open at once, with room to spare.
const MAX_STREAMS: u32 = 16;
/// The stream of messages between members, and one to spare.
const MAX_ONE_WAY: u32 = 2;
/// How long to wait for one address to answer.
const DIAL_TIMEOUT: Duration = Duration::from_secs(8);
/// What a round trip may take before it is measured. The first packet to a peer that is just starting is lost; with
/// the standard's guess it would be repeated only after a second.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// How long closed connections are given to tell their peers.
const FAREWELL: Duration = Duration::from_millis(200);
/// Handshakes that have not been looked at yet.
const MAX_PENDING: usize = 256;
/// Above so many connections a stranger must first show that its source address is its own.
const CALM: usize = 64;
/// What the system is asked for; it gives less where its limit is lower.
const SOCKET_BUFFER: usize = 4 << 20;
/// Packets that stay on this machine need not be Ethernet-sized, which saves most of their cost. Ten of them, which
/// are handed to the kernel at a time, must fit the 64 KiB that it takes: more would be dropped without an error.
const LOOPBACK_PACKET: u16 = 6_500;
/// The standard's first congestion window is ten Ethernet packets: two of these.
const LOOPBACK_WINDOW: u64 = 1 << 20;

/// Why a socket could not be opened.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another program has the port.
    #[error("cannot listen on {0}: the port is in use")]
    InUse(SocketAddr),
    /// The system refuses otherwise.
    #[error("cannot listen on {address}: {error}")]
    Io {
        /// Where to listen.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The device key cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Why nobody was reached at an address.
#[derive(Debug, Error)]
pub enum DialError {
    /// This socket cannot reach such an address.
    #[error("cannot dial {0}: {1}")]
    Unusable(SocketAddr, String),
    /// Nobody answered.
    #[error("no answer from {0}")]
    NoAnswer(SocketAddr),
    /// Somebody answered, but not who was wanted or not in our language.
    #[error("{0}: {1}")]
    Failed(SocketAddr, quinn::ConnectionError),
}

/// The socket.
#[derive(Debug, Clone)]
pub struct Endpoint {
    quinn: quinn::Endpoint,
    identity: Arc<Identity>,
    near: Arc<TransportConfig>,
    far: Arc<TransportConfig>,
    server_near: Arc<quinn::ServerConfig>,
}

impl Endpoint {
    /// Opens the socket and listens for `protocol`. Without an address: any port on all of them.
    ///
    /// Must be called within a tokio runtime.
    pub fn bind(identity: Identity, listen: Option<SocketAddr>, protocol: Protocol) -> Result<Self, BindError> {
        let socket = match listen {
            Some(address) => open_socket(address)?,
            // Machines without IPv6 refuse the first.
            None => open_socket((Ipv6Addr::UNSPECIFIED, 0).into())
                .or_else(|_| open_socket((Ipv4Addr::UNSPECIFIED, 0).into()))?,
        };
        let near = Arc::new(transport(true));
        let far = Arc::new(transport(false));
        let crypto = Arc::new(identity.server(protocol)?);
        let server = |transport: &Arc<TransportConfig>| {
            let mut config = quinn::ServerConfig::with_crypto(crypto.clone());
            config.transport_config(transport.clone()).max_incoming(MAX_PENDING);
            config
        };
        let mut config = EndpointConfig::default();
        let config_ok = config.max_udp_payload_size(LOOPBACK_PACKET).is_ok();
        debug_assert!(config_ok, "the payload size is within QUIC's bounds");
        let address = socket.local_addr().map_err(|error| BindError::Io { address: listen.unwrap_or(ANY), error })?;
        let quinn = quinn::Endpoint::new(config, Some(server(&far)), socket, Arc::new(TokioRuntime))
            .map_err(|error| BindError::Io { address, error })?;
        let server_near = Arc::new(server(&near));
        Ok(Self { quinn, identity: Arc::new(identity), near, far, server_near })
    }

    /// Returns whose endpoint this is.
    pub fn device(&self) -> DeviceId {
        self.identity.device()
    }

    /// Dials `address`; with `expected`, anybody else who answers is turned away during the handshake.
    pub async fn connect(
        &self,
        address: SocketAddr,
        protocol: Protocol,
        expected: Option<DeviceId>,
    ) -> Result<quinn::Connection, DialError> {
        let unusable = |error: &dyn std::fmt::Display| DialError::Unusable(address, error.to_string());
        let crypto = self.identity.client(protocol, expected).map_err(|e| unusable(&e))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(if interfaces::is_here(address.ip()) { &self.near } else { &self.far }.clone());
        // The name goes nowhere: SNI is off and certificates carry keys, not names.
        let connecting = self.quinn.connect_with(config, address, "p2pfs").map_err(|e| unusable(&e))?;
        match tokio::time::timeout(DIAL_TIMEOUT, connecting).await {
            Err(_) | Ok(Err(quinn::ConnectionError::TimedOut)) => Err(DialError::NoAnswer(address)),
            Ok(Err(error)) => Err(DialError::Failed(address, error)),
            Ok(Ok(connection)) => Ok(connection),
        }
    }

    /// Waits for the next caller. `None` once the endpoint is closed.
    pub async fn accept(&self) -> Option<Caller> {
        loop {
            let incoming = self.quinn.accept().await?;
            if self.quinn.open_connections() > CALM && !incoming.remote_address_validated() && incoming.may_retry() {
                // A retry costs its sender a round trip and us nothing; a forged source never comes back.
                if let Err(error) = incoming.retry() {
                    log::debug!("cannot ask a caller to try again: {error}");
                }
                continue;
            }
            return Some(Caller { incoming, near: self.server_near.clone() });
        }
    }

    /// Returns the port listened on.
    pub fn port(&self) -> u16 {
        self.quinn.local_addr().map_or(0, |address| address.port())
    }

    /// Returns the addresses at which others may reach this endpoint.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.quinn.local_addr().map(interfaces::reachable_at).unwrap_or_default()
    }

    /// Closes all connections with `code` and stops listening; the last packets leave if the runtime lives on.
    pub fn close_now(&self, code: VarInt, reason: &str) {
        self.quinn.close(code, reason.as_bytes());
    }

    /// Closes all connections with `code`, gives the last packets a moment to leave, and stops listening.
    pub async fn close(&self, code: VarInt, reason: &str) {
        self.close_now(code, reason);
        // The farewells leave at once. What is waited for beyond that is only late packets of the other side.
        let _late = tokio::time::timeout(FAREWELL, self.quinn.wait_idle()).await;
    }
}

/// Somebody who wants to connect; only its address is known.
#[derive(Debug)]
pub struct Caller {
    incoming: quinn::Incoming,
    near: Arc<quinn::ServerConfig>,
}

impl Caller {
    /// Returns where the call comes from.
    pub fn address(&self) -> SocketAddr {
        canonical(self.incoming.remote_address())
    }

    /// Completes the TLS handshake.
    pub async fn answer(self) -> Result<quinn::Connection, quinn::ConnectionError> {
        let near = interfaces::is_here(self.address().ip());
        let connecting = if near { self.incoming.accept_with(self.near.clone())? } else { self.incoming.accept()? };
        connecting.await
    }

    /// Turns the caller away.
    pub fn refuse(self) {
        self.incoming.refuse();
    }
}

/// Returns where the other end is, an IPv4 address as such also on a dual-stack socket.
pub fn remote_address(connection: &quinn::Connection) -> SocketAddr {
    canonical(connection.remote_address())
}

const ANY: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn open_socket(address: SocketAddr) -> Result<std::net::UdpSocket, BindError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&address.into())?;
        io::Result::Ok(socket)
    };
    let socket = open().map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse(address),
        _ => BindError::Io { address, error },
    })?;
    // Small buffers only cost speed.
    let _smaller = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _smaller = socket.set_send_buffer_size(SOCKET_BUFFER);
    Ok(socket.into())
}

fn transport(loopback: bool) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(MAX_ONE_WAY))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .initial_rtt(INITIAL_RTT)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into().expect("45 s is within QUIC's range")));
    if loopback {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(LOOPBACK_PACKET);
        let mut congestion = CubicConfig::default();
        congestion.initial_window(LOOPBACK_WINDOW);
        config.mtu_discovery_config(Some(discovery)).congestion_controller_factory(Arc::new(congestion));
    }
    config
}
