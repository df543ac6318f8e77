//! A wire between two peers that can be listened to: a UDP relay in front of one of them.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use peer_net::ticket::Ticket;

/// How often the relay looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);
const DATAGRAM: usize = 1 << 16;

/// A relay to one address. Ends when dropped.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<SocketAddr>,
    ended: AtomicBool,
    heard: Mutex<Vec<u8>>,
}

impl Wire {
    /// Lays a wire to whoever listens at `target`.
    pub fn to(target: SocketAddr) -> Self {
        let front = Arc::new(socket());
        let address = front.local_addr().unwrap();
        let shared =
            Arc::new(Shared { target: Mutex::new(target), ended: AtomicBool::new(false), heard: Mutex::default() });
        let thread = thread::spawn({
            let shared = shared.clone();
            move || forth(&shared, &front)
        });
        Self { address, shared, thread: Some(thread) }
    }

    /// The near end: who sends there reaches the target.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads to `target` from now on: whoever only remembers the old one has this wire left.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.shared.target.lock().unwrap() = target;
    }

    /// `ticket` for somebody who shall come through this wire and knows no other way.
    pub fn through(&self, ticket: &str) -> String {
        let mut ticket: Ticket = ticket.parse().unwrap();
        ticket.hints = vec![self.address];
        ticket.registries.clear();
        ticket.to_word().to_string()
    }

    /// Every byte that went through, both ways.
    pub fn heard(&self) -> Vec<u8> {
        self.shared.heard.lock().unwrap().clone()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn pass(&self, datagram: &[u8], send: impl FnOnce(&[u8]) -> io::Result<usize>) {
        self.heard.lock().unwrap().extend_from_slice(datagram);
        // What is lost here is lost as on any wire.
        let _ = send(datagram);
    }

    fn goes_on(&self) -> bool {
        !self.ended.load(Ordering::Relaxed)
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(LOOK)).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4 << 20).unwrap();
    socket
}

/// To the target, from a socket of its own for each caller, as a router that translates addresses does.
fn forth(shared: &Arc<Shared>, front: &Arc<UdpSocket>) {
    let mut callers: HashMap<SocketAddr, (Arc<UdpSocket>, JoinHandle<()>)> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM];
    while shared.goes_on() {
        let Ok((len, caller)) = front.recv_from(&mut buffer) else { continue };
        let (far, _) = callers.entry(caller).or_insert_with(|| {
            let far = Arc::new(socket());
            let (shared, front, from) = (shared.clone(), front.clone(), far.clone());
            (far, thread::spawn(move || back(&shared, &from, &front, caller)))
        });
        let target = *shared.target.lock().unwrap();
        shared.pass(&buffer[..len], |datagram| far.send_to(datagram, target));
    }
    for (_, thread) in callers.into_values() {
        let _ = thread.join();
    }
}

fn back(shared: &Shared, far: &UdpSocket, front: &UdpSocket, caller: SocketAddr) {
    let mut buffer = vec![0; DATAGRAM];
    while shared.goes_on() {
        if let Ok(len) = far.recv(&mut buffer) {
            shared.pass(&buffer[..len], |datagram| front.send_to(datagram, caller));
        }
    }
}
