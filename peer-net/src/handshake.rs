//! The first words on a connection: what it is for, and that both ends belong to the volume.
//!
//! The dialler opens the control stream and says [`Hello`]; the listener gives its [`Answer`]; then both tell where
//! they and others are ([`Addresses`]). The volume's id is never said: that both know its discovery key is shown by
//! keyed tags over this very connection (the TLS exporter), the speaker's role and its device, so that a tag proves
//! nothing anywhere else. The dialler proves first; a scanner learns nothing from a listener.
//!
//! A discovery key changes when somebody is removed, and who was away then still has an old one. So each side tries
//! all it knows; an old key is enough only from a device that the other side has as a member.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crypto::{DeviceId, Label, SymmetricKey, keyed_tag};
use quinn::{Connection, RecvStream, SendStream, Side};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::time::Instant;
use volume::{DeviceGrant, DeviceRequest, ExportedRequest, JoinGrant, JoinRequest, Volume};

use crate::blocking::blocking;
use crate::close;
use crate::frame::{self, FrameError, FrameReader};
use crate::registry_client::one_line;
use crate::registry_protocol::MAX_ADDRESSES;

/// How long the whole exchange may take.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// The longest frame before the connection is established; [`Addresses`] are the largest.
const MAX_FRAME: usize = 64 << 10;
/// The longest answer: it has the keys of all epochs, of which each removal makes one.
const MAX_ANSWER: usize = 1 << 20;
/// How many discovery keys are tried: the present one and those before it.
const MAX_KEYS: usize = 8;
/// How many other devices' addresses are told.
const MAX_OTHERS: usize = 128;
const EXPORTER_LEN: usize = 32;
/// What a device is told that was removed.
const REMOVED: &str = "removed";

/// What is said on the control stream, and later in the session.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) send: SendStream,
    pub(crate) receive: FrameReader<RecvStream>,
}

/// Dialler to listener.
#[derive(Serialize, Deserialize)]
pub(crate) enum Hello {
    /// "I belong to your volume": one tag per discovery key, the newest first.
    Sync(Vec<Tag>),
    /// "I was invited."
    Join(Box<JoinRequest>),
    /// "I am to be a further device of your user."
    JoinDevice(Box<DeviceRequest>),
    /// "I have a member's exported key."
    Return(Box<ExportedRequest>),
}

/// Listener to dialler.
#[derive(Serialize, Deserialize)]
pub(crate) enum Answer {
    /// "So do I": the tag under the key that matched.
    Welcome(Tag),
    /// "You belong to it now."
    Granted(Box<JoinGrant>),
    /// "No", and why, for people.
    Refused(String),
    /// "You are."
    GrantedDevice(Box<DeviceGrant>),
}

/// Where devices may be reached: the sender, and other members it knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Addresses {
    pub(crate) own: Vec<SocketAddr>,
    pub(crate) others: Vec<(DeviceId, Vec<SocketAddr>)>,
}

impl Addresses {
    /// Cuts everything to what may be sent and believed.
    pub(crate) fn bounded(mut self) -> Self {
        self.own.truncate(MAX_ADDRESSES);
        self.others.truncate(MAX_OTHERS);
        for (_, addresses) in &mut self.others {
            addresses.truncate(MAX_ADDRESSES);
        }
        self
    }

    /// Cuts so far that it fits a frame, whatever the addresses are.
    fn sendable(self) -> Self {
        let mut addresses = self.bounded();
        while frame::encode(&addresses).len() > MAX_FRAME {
            addresses.others.truncate(addresses.others.len() / 2);
        }
        addresses
    }
}

/// A keyed tag. Compared openly: an attacker sees each only once, on a connection that ends with a wrong one.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tag(#[serde(with = "serde_bytes")] pub(crate) [u8; 16]);

/// Why two devices do not talk.
#[derive(Debug, Error)]
pub(crate) enum HandshakeError {
    /// The other end knows no key of this volume, or only one that it shouldn't use any more.
    #[error("not a member of the volume")]
    NotAMember,
    /// The other end was removed from the volume.
    #[error("that device was removed from the volume")]
    RemovedPeer,
    /// The other end says that this device was.
    #[error("this device was removed from the volume")]
    Removed,
    /// A join was refused, for this reason.
    #[error("{0}")]
    Refused(String),
    /// The other end speaks otherwise.
    #[error("unexpected answer")]
    Unexpected,
    /// It took too long.
    #[error("no answer in time")]
    TooSlow,
    /// This device cannot prove anything yet.
    #[error("the volume's key is not known here yet")]
    NoKey,
    /// What came was no message.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// The connection is gone.
    #[error("{0}")]
    Connection(#[from] quinn::ConnectionError),
    /// The crypto library failed.
    #[error("no exporter on this connection")]
    NoExporter,
}

impl HandshakeError {
    /// Whether the other end only had no more use for the connection.
    pub(crate) fn is_innocent(&self) -> bool {
        let Self::Connection(quinn::ConnectionError::ApplicationClosed(closed)) = self else { return false };
        [close::DUPLICATE, close::GOODBYE].contains(&closed.error_code)
    }

    /// Closes `connection` with the code that fits.
    pub(crate) fn close(&self, connection: &Connection) {
        let code = match self {
            Self::NotAMember => close::NOT_A_MEMBER,
            Self::RemovedPeer => close::REMOVED,
            Self::Removed => close::GOODBYE,
            Self::Refused(_) => close::REFUSED,
            Self::TooSlow => close::TOO_SLOW,
            Self::Unexpected | Self::Frame(_) => close::MISBEHAVED,
            Self::NoKey | Self::Connection(_) | Self::NoExporter => close::FAILED,
        };
        let said = match self {
            Self::Frame(_) => "malformed message".to_owned(),
            other => other.to_string(),
        };
        connection.close(code, said.as_bytes());
    }
}

/// Who passed the handshake.
#[derive(Debug)]
pub(crate) struct Greeted {
    pub(crate) control: Control,
    pub(crate) addresses: Addresses,
    /// The device joined just now, on this connection.
    pub(crate) joined: bool,
}

/// The discovery keys this device knows, the newest first. Empty before the first sync.
pub(crate) fn discovery_keys(volume: &Volume) -> Vec<SymmetricKey> {
    volume.discovery_keys().into_iter().take(MAX_KEYS).collect()
}

/// Greets a listener as a member. `own` is what to tell it once it has proven to be one.
pub(crate) async fn call(
    connection: &Connection,
    volume: &Volume,
    (me, them): (DeviceId, DeviceId),
    own: impl Future<Output = Addresses>,
) -> Result<Greeted, HandshakeError> {
    let deadline = Instant::now() + TIME_LIMIT;
    let exporter = member_exporter(connection)?;
    let (keys, known) = knowledge(volume, them).await;
    if keys.is_empty() {
        return Err(HandshakeError::NoKey);
    }
    let (mut control, answer) = timed(deadline, async {
        let tags = keys.iter().map(|key| tag(key, &exporter, Side::Client, &me)).collect();
        ask(connection, &Hello::Sync(tags)).await
    })
    .await?;
    match answer {
        Answer::Welcome(proof) => {
            let key = keys.iter().position(|key| tag(key, &exporter, Side::Server, &them) == proof);
            check(key, known)?;
            let addresses = timed(deadline, exchange(&mut control, own.await)).await?;
            Ok(Greeted { control, addresses, joined: false })
        }
        Answer::Refused(why) if why == REMOVED => Err(HandshakeError::Removed),
        Answer::Refused(_) => Err(HandshakeError::NotAMember),
        Answer::Granted(_) | Answer::GrantedDevice(_) => Err(HandshakeError::Unexpected),
    }
}

/// What was asked for with an invitation, granted.
pub(crate) enum Granted {
    Member(Box<JoinGrant>),
    Device(Box<DeviceGrant>),
}

/// Greets a listener with an invitation.
pub(crate) async fn ask_to_join(
    connection: &Connection,
    hello: impl FnOnce(&[u8]) -> Result<Hello, String>,
    own: impl Future<Output = Addresses>,
) -> Result<(Granted, Greeted), HandshakeError> {
    let deadline = Instant::now() + TIME_LIMIT;
    let exporter = join_exporter(connection)?;
    let hello = hello(&exporter).map_err(HandshakeError::Refused)?;
    let (mut control, answer) = timed(deadline, ask(connection, &hello)).await?;
    let granted = match (answer, &hello) {
        (Answer::Granted(grant), Hello::Join(_) | Hello::Return(_)) => Granted::Member(grant),
        (Answer::GrantedDevice(grant), Hello::JoinDevice(_)) => Granted::Device(grant),
        (Answer::Refused(why), _) => return Err(HandshakeError::Refused(one_line(&why))),
        _ => return Err(HandshakeError::Unexpected),
    };
    let addresses = timed(deadline, exchange(&mut control, own.await)).await?;
    Ok((granted, Greeted { control, addresses, joined: true }))
}

/// Receives whoever dialled. `joins_allowed` says whether this address may try a ticket now.
pub(crate) async fn receive(
    connection: &Connection,
    volume: &Volume,
    (me, them): (DeviceId, DeviceId),
    own: impl Future<Output = Addresses>,
    joins_allowed: bool,
) -> Result<Greeted, HandshakeError> {
    let deadline = Instant::now() + TIME_LIMIT;
    let (mut control, hello) = timed(deadline, async {
        let (send, receive) = connection.accept_bi().await?;
        let mut control = Control { send, receive: FrameReader::new(receive, MAX_FRAME) };
        let hello: Hello = control.receive.expect_value().await?;
        Ok((control, hello))
    })
    .await?;
    let joined = match hello {
        Hello::Sync(tags) => {
            let exporter = member_exporter(connection)?;
            let (keys, known) = knowledge(volume, them).await;
            let key = keys.iter().position(|key| {
                let proof = tag(key, &exporter, Side::Client, &them);
                tags.iter().take(MAX_KEYS).any(|tag| *tag == proof)
            });
            if key.is_some() && known == Known::Removed {
                timed(deadline, refuse(connection, &mut control, REMOVED)).await?;
                return Err(HandshakeError::RemovedPeer);
            }
            let key = check(key, known)?;
            let proof = tag(&keys[key], &exporter, Side::Server, &me);
            frame::write_value(&mut control.send, &Answer::Welcome(proof)).await?;
            false
        }
        request => {
            let verdict = if joins_allowed {
                let exporter = join_exporter(connection)?;
                let volume = volume.clone();
                blocking(move || admit(&volume, &request, &them, &exporter)).await
            } else {
                Err("too many failed attempts from your address: wait a minute".to_owned())
            };
            match verdict {
                Ok(granted) => {
                    frame::write_value(&mut control.send, &granted).await?;
                    true
                }
                Err(why) => {
                    timed(deadline, refuse(connection, &mut control, &why)).await?;
                    return Err(HandshakeError::Refused(why));
                }
            }
        }
    };
    let addresses = timed(deadline, exchange(&mut control, own.await)).await?;
    Ok(Greeted { control, addresses, joined })
}

fn admit(volume: &Volume, hello: &Hello, caller: &DeviceId, exporter: &[u8]) -> Result<Answer, String> {
    let device = match hello {
        Hello::Join(request) => request.device.id,
        Hello::JoinDevice(request) => request.device.id,
        Hello::Return(request) => request.device.id,
        Hello::Sync(_) => return Err("no invitation".to_owned()),
    };
    // The device that joins is the one on this connection, which proved its key to TLS.
    if device != *caller {
        return Err("the request is for another device than the one that asks".to_owned());
    }
    let granted = match hello {
        Hello::Join(request) => volume.admit(request, exporter).map(|grant| Answer::Granted(Box::new(grant))),
        Hello::JoinDevice(request) => {
            volume.admit_device(request, exporter).map(|grant| Answer::GrantedDevice(Box::new(grant)))
        }
        Hello::Return(request) => volume.admit_exported(request).map(|grant| Answer::Granted(Box::new(grant))),
        Hello::Sync(_) => return Err("no invitation".to_owned()),
    };
    granted.map_err(|error| match error {
        volume::Error::Refused(why) => why,
        error => {
            log::warn!("device {}: cannot admit: {error}", caller.short());
            "the inviting device cannot let you in now; its log says why".to_owned()
        }
    })
}

async fn refuse(connection: &Connection, control: &mut Control, why: &str) -> Result<(), HandshakeError> {
    frame::write_value(&mut control.send, &Answer::Refused(why.to_owned())).await?;
    if control.send.finish().is_ok() {
        // The reason must arrive before the connection is closed.
        tokio::select! {
            _either_way = control.send.stopped() => {}
            _gone = connection.closed() => {}
        }
    }
    Ok(())
}

async fn ask(connection: &Connection, hello: &Hello) -> Result<(Control, Answer), HandshakeError> {
    let (send, receive) = connection.open_bi().await?;
    let mut control = Control { send, receive: FrameReader::new(receive, MAX_ANSWER) };
    frame::write_value(&mut control.send, hello).await?;
    match control.receive.expect_value().await {
        Ok(answer) => {
            control.receive.set_max(MAX_FRAME);
            Ok((control, answer))
        }
        // A listener that knows no key of ours closes the connection; that is what to tell.
        Err(error) => match connection.close_reason() {
            Some(quinn::ConnectionError::ApplicationClosed(reason)) if reason.error_code == close::NOT_A_MEMBER => {
                Err(HandshakeError::NotAMember)
            }
            Some(quinn::ConnectionError::ApplicationClosed(reason)) if reason.error_code == close::REMOVED => {
                Err(HandshakeError::Removed)
            }
            Some(reason) => Err(reason.into()),
            None => Err(error.into()),
        },
    }
}

async fn exchange(control: &mut Control, own: Addresses) -> Result<Addresses, HandshakeError> {
    frame::write_value(&mut control.send, &own.sendable()).await?;
    let theirs: Addresses = control.receive.expect_value().await?;
    Ok(theirs.bounded())
}

async fn timed<T>(
    deadline: Instant,
    work: impl Future<Output = Result<T, HandshakeError>>,
) -> Result<T, HandshakeError> {
    tokio::time::timeout_at(deadline, work).await.unwrap_or(Err(HandshakeError::TooSlow))
}

/// What the volume says of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Member,
    Removed,
    Unknown,
}

/// What this device knows for judging `them`: the keys, and whether the device is a member.
async fn knowledge(volume: &Volume, them: DeviceId) -> (Vec<SymmetricKey>, Known) {
    let volume = volume.clone();
    blocking(move || {
        let known = match (volume.is_member(&them), volume.is_removed(&them)) {
            (true, _) => Known::Member,
            (false, true) => Known::Removed,
            (false, false) => Known::Unknown,
        };
        (discovery_keys(&volume), known)
    })
    .await
}

/// Judges which of our keys the other end proved.
fn check(key: Option<usize>, known: Known) -> Result<usize, HandshakeError> {
    match key {
        Some(_) if known == Known::Removed => Err(HandshakeError::RemovedPeer),
        Some(0) => Ok(0),
        Some(old) if known == Known::Member => Ok(old),
        _ => Err(HandshakeError::NotAMember),
    }
}

fn tag(key: &SymmetricKey, exporter: &[u8; EXPORTER_LEN], role: Side, prover: &DeviceId) -> Tag {
    let role = match role {
        Side::Client => b'd',
        Side::Server => b'l',
    };
    let message = [exporter.as_slice(), &[role], prover.as_bytes()].concat();
    Tag(keyed_tag(key, Label::MemberProof, &message))
}

fn member_exporter(connection: &Connection) -> Result<[u8; EXPORTER_LEN], HandshakeError> {
    export(connection, b"p2pfs member proof")
}

fn join_exporter(connection: &Connection) -> Result<[u8; EXPORTER_LEN], HandshakeError> {
    export(connection, b"p2pfs ticket proof")
}

fn export(connection: &Connection, label: &[u8]) -> Result<[u8; EXPORTER_LEN], HandshakeError> {
    let mut exporter = [0; EXPORTER_LEN];
    connection.export_keying_material(&mut exporter, label, b"").map_err(|_| HandshakeError::NoExporter)?;
    Ok(exporter)
}

/// Counts failed joins per source address: guessing a ticket is hopeless, but each try costs a signature check.
#[derive(Debug, Default)]
pub(crate) struct FailedJoins {
    failures: std::collections::HashMap<IpAddr, (u32, Duration)>,
}

impl FailedJoins {
    const MOST: u32 = 5;
    const WINDOW: Duration = Duration::from_secs(60);
    /// Beyond so many addresses the oldest are forgotten.
    const ADDRESSES: usize = 4096;

    /// Whether `ip` may try now.
    pub(crate) fn allow(&self, ip: IpAddr, now: Duration) -> bool {
        self.failures
            .get(&ip)
            .is_none_or(|(count, since)| *count < Self::MOST || now.saturating_sub(*since) >= Self::WINDOW)
    }

    /// Records a failure.
    pub(crate) fn failed(&mut self, ip: IpAddr, now: Duration) {
        if self.failures.len() >= Self::ADDRESSES {
            self.failures.retain(|_, (_, since)| now.saturating_sub(*since) < Self::WINDOW);
            if self.failures.len() >= Self::ADDRESSES {
                self.failures.clear();
            }
        }
        let (count, since) = self.failures.entry(ip).or_insert((0, now));
        if now.saturating_sub(*since) >= Self::WINDOW {
            *count = 0;
            *since = now;
        }
        *count += 1;
        if *count == Self::MOST {
            // The minute counts from the failure that closed the door.
            *since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_failures_a_minute_close_the_door_for_a_minute() {
        let mut joins = FailedJoins::default();
        let (ip, other) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let at = Duration::from_secs;
        for second in 0..5 {
            assert!(joins.allow(ip, at(second)));
            joins.failed(ip, at(second));
        }
        assert!(!joins.allow(ip, at(5)));
        assert!(joins.allow(other, at(5)));
        assert!(!joins.allow(ip, at(63)));
        assert!(joins.allow(ip, at(64)));
    }

    #[test]
    fn an_old_key_is_enough_only_from_a_member() {
        assert_eq!(check(Some(0), Known::Unknown).unwrap(), 0);
        assert_eq!(check(Some(2), Known::Member).unwrap(), 2);
        assert!(matches!(check(Some(2), Known::Unknown), Err(HandshakeError::NotAMember)));
        assert!(matches!(check(None, Known::Member), Err(HandshakeError::NotAMember)));
        assert!(matches!(check(Some(0), Known::Removed), Err(HandshakeError::RemovedPeer)));
    }

    #[test]
    fn a_tag_binds_key_connection_role_and_device() {
        let key = SymmetricKey::from_bytes([1; 32]);
        let device = DeviceId::from_bytes([2; 32]);
        let reference = tag(&key, &[3; 32], Side::Client, &device);
        assert!(reference == tag(&key, &[3; 32], Side::Client, &device));
        assert!(reference != tag(&SymmetricKey::from_bytes([9; 32]), &[3; 32], Side::Client, &device));
        assert!(reference != tag(&key, &[9; 32], Side::Client, &device));
        assert!(reference != tag(&key, &[3; 32], Side::Server, &device));
        assert!(reference != tag(&key, &[3; 32], Side::Client, &DeviceId::from_bytes([9; 32])));
    }

    #[test]
    fn addresses_are_cut_to_fit_a_frame() {
        let v6: SocketAddr = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap();
        let many =
            Addresses { own: vec![v6; 100], others: vec![(DeviceId::from_bytes([255; 32]), vec![v6; 100]); 1000] };
        let cut = many.sendable();
        assert!(frame::encode(&cut).len() <= MAX_FRAME);
        assert_eq!(cut.own.len(), MAX_ADDRESSES);
        assert!(cut.others.len() >= 64, "{}", cut.others.len());
    }
}
