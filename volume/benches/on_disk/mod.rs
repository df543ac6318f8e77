//! Replicas on a real disk, for what is measured: the parts a mount puts together, without a mount and a network.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a harness: each measurement uses its own part of it, and what fails here ends the measurement"
)]

use std::{
    fs,
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant, SystemTime},
};

use crypto::{DeviceId, DeviceKeys, Entropy, OsEntropy, SeededEntropy, SymmetricKey, UserKeys, VolumeId};
use p2pfs_volume::{
    Attributes, Caller, CheckedMessage, Clock, Ino, JoinRequest, Message, NewNode, OpenMode, Parts, Role, Session,
    Timestamp, Volume, archive::Archive, content::Packs, disk_store::DiskStore, sealed_store::SealedStore,
};

/// Commits of so many bytes are taken in together.
const TOGETHER: usize = 1 << 20;

/// The machine's own.
struct RealClock(Instant);

impl Clock for RealClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap();
        Timestamp { secs: since.as_secs() as i64, nanos: since.subsec_nanos() }
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Keys of one device and its user, the same for one seed in every process.
struct Keys {
    secret: SymmetricKey,
    device: DeviceKeys,
    user: UserKeys,
}

impl Keys {
    fn of(seed: u64) -> Self {
        let entropy = SeededEntropy::new(seed);
        Self {
            secret: SymmetricKey::generate(&entropy),
            device: DeviceKeys::generate(&entropy),
            user: UserKeys::generate(&entropy),
        }
    }
}

/// One device's volume in a folder.
pub struct Replica {
    pub volume: Volume,
    pub packs: Arc<Packs>,
    pub device: DeviceId,
    committer: Option<thread::JoinHandle<()>>,
}

impl Replica {
    fn parts(dir: &Path, seed: u64) -> (Parts, Arc<Packs>) {
        fs::create_dir_all(dir).unwrap();
        let Keys { secret, device, user } = Keys::of(seed);
        let entropy: Arc<dyn Entropy> = Arc::new(OsEntropy);
        let store = Arc::new(DiskStore::open(&dir.join("store")).unwrap());
        let sealed = SealedStore::new(store.clone(), &secret, entropy.clone());
        let archive = Arc::new(Archive::open(&dir.join("commits"), &secret, entropy.clone()).unwrap());
        let packs = Arc::new(Packs::open(&dir.join("packs"), &sealed).unwrap());
        let parts = Parts {
            store,
            blocks: packs.clone(),
            clock: Arc::new(RealClock(Instant::now())),
            entropy,
            secret,
            device,
            user,
            archive: Some(archive),
            directory: Some(dir.to_owned()),
        };
        (parts, packs)
    }

    fn running(volume: Volume, packs: Arc<Packs>, device: DeviceId) -> Self {
        let worker = volume.clone();
        let committer = Some(thread::spawn(move || worker.run_committer()));
        Self { volume, packs, device, committer }
    }

    /// A volume of its own.
    pub fn founded(dir: &Path, seed: u64) -> Self {
        let (parts, packs) = Self::parts(dir, seed);
        let device = parts.device.id();
        Self::running(Volume::found(parts, "alice").unwrap(), packs, device)
    }

    /// The volume that was founded there before.
    pub fn opened(dir: &Path, seed: u64, id: VolumeId) -> Self {
        let (parts, packs) = Self::parts(dir, seed);
        let device = parts.device.id();
        Self::running(Volume::load(parts, id).unwrap(), packs, device)
    }

    /// A member whom `admin` has admitted, and who has nothing of the volume yet.
    pub fn admitted(dir: &Path, seed: u64, admin: &Replica) -> Self {
        let ticket = admin.volume.invite(Role::Writer, Duration::from_hours(24)).unwrap();
        let (parts, packs) = Self::parts(dir, seed);
        let device = parts.device.id();
        let request =
            JoinRequest::new(&ticket, "bob", &parts.user, &parts.device, b"exporter", &*parts.entropy).unwrap();
        let grant = admin.volume.admit(&request, b"exporter").unwrap();
        let volume = Volume::load(parts, grant.volume).unwrap();
        volume.accept(&grant).unwrap();
        Self::running(volume, packs, device)
    }

    pub fn directory(&self, parent: Ino, name: &str) -> Ino {
        self.volume.make(parent, name.as_bytes(), NewNode::Directory, 0o755, &Caller::default()).unwrap().ino
    }

    /// A new file, as programs make one: create, write, close.
    pub fn file(&self, parent: Ino, name: &str, bytes: &[u8]) -> Attributes {
        let mode = OpenMode { write: true, ..OpenMode::default() };
        let who = Caller::default();
        let (made, handle) = self.volume.create(parent, name.as_bytes(), 0o644, mode, true, &who).unwrap();
        self.volume.write(handle, 0, bytes, &who).unwrap();
        self.volume.flush(handle).unwrap();
        self.volume.release(handle).unwrap();
        made
    }

    /// A file written over, as programs do it: open and empty, write, close.
    pub fn overwritten(&self, parent: Ino, name: &str, bytes: &[u8]) {
        let mode = OpenMode { write: true, truncate: true, ..OpenMode::default() };
        let who = Caller::default();
        let (_, handle) = self.volume.create(parent, name.as_bytes(), 0o644, mode, false, &who).unwrap();
        self.volume.write(handle, 0, bytes, &who).unwrap();
        self.volume.flush(handle).unwrap();
        self.volume.release(handle).unwrap();
    }

    /// How many entries a directory shows, read as the kernel reads it.
    pub fn list(&self, directory: Ino) -> usize {
        let (mut after, mut seen) = (0, 0);
        loop {
            let entries = self.volume.read_directory(directory, after, 128).unwrap();
            let Some(last) = entries.last() else { return seen };
            after = last.cookie;
            seen += entries.len();
        }
    }

    /// Writes everything out and ends.
    pub fn close(mut self) {
        self.volume.shutdown().unwrap();
        self.committer.take().unwrap().join().unwrap();
        self.packs.close().unwrap();
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(committer) = self.committer.take() {
            self.volume.shutdown().unwrap();
            committer.join().unwrap();
        }
    }
}

/// Two replicas with a wire between them that is a function call.
pub struct Connection {
    at_a: Session,
    at_b: Session,
}

impl Connection {
    pub fn between(a: &Replica, b: &Replica) -> Self {
        let connection = Self { at_a: a.volume.session(b.device), at_b: b.volume.session(a.device) };
        for message in connection.at_a.opening() {
            connection.at_b.receive(message).unwrap();
        }
        for message in connection.at_b.opening() {
            connection.at_a.receive(message).unwrap();
        }
        connection
    }

    /// What A wants to say now, encoded and decoded as on a wire.
    pub fn said_by_a(&self) -> Vec<Message> {
        std::iter::from_fn(|| self.at_a.next_outgoing()).map(carried).collect()
    }

    /// B receives this.
    pub fn to_b(&self, messages: Vec<Message>) {
        for message in messages {
            self.at_b.receive(message).unwrap();
        }
    }

    /// Until neither has anything more to say, contents included.
    pub fn settle(&self) {
        loop {
            let mut moved = false;
            for (here, there) in [(&self.at_a, &self.at_b), (&self.at_b, &self.at_a)] {
                moved |= stream(here, there);
                for hash in here.wanted(64) {
                    match there.serve_block(&hash) {
                        Some(bytes) => here.block_arrived(&hash, &bytes).unwrap(),
                        None => here.block_failed(&hash),
                    }
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }
}

fn carried(message: Message) -> Message {
    Message::decode(&message.encode()).unwrap()
}

/// What one wants to say to the other, as the network has it done: one thread makes messages, one checks them, one has
/// them taken in, those that wait together. Whether there was something.
fn stream(here: &Session, there: &Session) -> bool {
    let Some(first) = here.next_outgoing() else { return false };
    let (wire, arriving) = mpsc::sync_channel::<Vec<u8>>(1);
    let (queue, came) = mpsc::sync_channel::<(CheckedMessage, usize)>(2);
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut next = Some(first);
            while let Some(message) = next {
                wire.send(message.encode()).unwrap();
                next = here.next_outgoing();
            }
        });
        scope.spawn(move || {
            for bytes in arriving {
                queue.send((Message::decode(&bytes).unwrap().into(), bytes.len())).unwrap();
            }
        });
        let mut next = None;
        while let Some((mut message, mut bytes)) = next.take().or_else(|| came.recv().ok()) {
            while bytes < TOGETHER
                && let Ok((more, len)) = came.try_recv()
            {
                match message.join(more) {
                    Ok(()) => bytes += len,
                    Err(other) => {
                        next = Some((other, len));
                        break;
                    }
                }
            }
            there.receive(message).unwrap();
        }
    });
    true
}
