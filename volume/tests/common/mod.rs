//! Replicas in memory, with clocks that stand still unless told, and a wire between them that is
//! a function call.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::type_complexity,
    reason = "a harness: each test file uses its own part of it, and what fails here is the test"
)]

pub mod forge;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crypto::{DeviceId, DeviceKeys, Entropy, SeededEntropy, SymmetricKey, UserKeys};
use p2pfs_volume::{
    Caller, Clock, DeviceRequest, Handle, Ino, JoinRequest, Message, NewNode, NodeKind, OpenMode, Parts, RenameMode,
    Result, Role, Session, Store, TicketSecret, Timestamp, Volume,
    archive::Archive,
    content::MemoryBlocks,
    memory_store::MemoryStore,
    salvage::{Remains, Salvaged, salvage},
};

/// A clock that moves a millisecond with every look; and by how much its date was set back.
#[derive(Default)]
pub struct StepClock(AtomicU64, AtomicU64);

impl StepClock {
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as u64, Ordering::Relaxed);
    }

    /// Sets its date back.
    pub fn set_back(&self, by: Duration) {
        self.1.fetch_add(by.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Clock for StepClock {
    fn now(&self) -> Timestamp {
        let millis = self.0.fetch_add(1, Ordering::Relaxed) - self.1.load(Ordering::Relaxed);
        Timestamp { secs: 1_795_338_900 + (millis / 1000) as i64, nanos: (millis % 1000) as u32 * 1_000_000 }
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

pub struct Replica {
    pub name: String,
    pub volume: Volume,
    pub store: Arc<MemoryStore>,
    pub blocks: Arc<MemoryBlocks>,
    pub clock: Arc<StepClock>,
    /// Where it has an archive of commits, if it has one.
    pub archive: Option<PathBuf>,
    seed: u64,
    secret: SymmetricKey,
    device: Vec<u8>,
    user: Vec<u8>,
}

impl Replica {
    fn parts(&self, salt: u64) -> Parts {
        Parts {
            store: self.store.clone(),
            blocks: self.blocks.clone(),
            clock: self.clock.clone(),
            entropy: Arc::new(SeededEntropy::new(self.seed * 1000 + salt)),
            secret: self.secret.clone(),
            device: DeviceKeys::from_bytes(&self.device).unwrap(),
            user: UserKeys::from_bytes(&self.user).unwrap(),
            archive: self.open_archive(),
            directory: None,
        }
    }

    fn open_archive(&self) -> Option<Arc<Archive>> {
        let dir = self.archive.as_ref()?;
        let entropy = Arc::new(SeededEntropy::new(self.seed * 7919));
        Some(Arc::new(Archive::open(dir, &self.secret, entropy).unwrap().with_segments_of(4096)))
    }

    fn empty(
        name: &str,
        seed: u64,
    ) -> (Arc<MemoryStore>, Arc<MemoryBlocks>, Arc<StepClock>, SymmetricKey, Vec<u8>, Vec<u8>) {
        let entropy = SeededEntropy::new(seed);
        let _ = name;
        (
            Arc::new(MemoryStore::new()),
            Arc::new(MemoryBlocks::new()),
            Arc::new(StepClock::default()),
            SymmetricKey::generate(&entropy),
            DeviceKeys::generate(&entropy).to_bytes().to_vec(),
            UserKeys::generate(&entropy).to_bytes().to_vec(),
        )
    }

    /// A volume of its own.
    pub fn founder(name: &str, seed: u64) -> Replica {
        let (store, blocks, clock, secret, device, user) = Self::empty(name, seed);
        let parts = Parts {
            store: store.clone(),
            blocks: blocks.clone(),
            clock: clock.clone(),
            entropy: Arc::new(SeededEntropy::new(seed * 1000)),
            secret: secret.clone(),
            device: DeviceKeys::from_bytes(&device).unwrap(),
            user: UserKeys::from_bytes(&user).unwrap(),
            archive: None,
            directory: None,
        };
        let volume = Volume::found(parts, name).unwrap();
        Replica { name: name.to_owned(), volume, store, blocks, clock, archive: None, seed, secret, device, user }
    }

    /// A member, admitted by `admin` and synced with it.
    pub fn joined(name: &str, seed: u64, admin: &Replica, role: Role) -> Replica {
        let ticket = admin.volume.invite(role, Duration::from_secs(86_400)).unwrap();
        Self::admitted(name, seed, admin, &ticket)
    }

    /// A member whom `admin` admits for a ticket, and that is synced with it. Two of one seed are one user's one device.
    pub fn admitted(name: &str, seed: u64, admin: &Replica, ticket: &TicketSecret) -> Replica {
        let (store, blocks, clock, secret, device, user) = Self::empty(name, seed);
        clock.advance(Duration::from_secs(seed));
        let (device_keys, user_keys) = (DeviceKeys::from_bytes(&device).unwrap(), UserKeys::from_bytes(&user).unwrap());
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(seed * 1000));
        let request = JoinRequest::new(ticket, name, &user_keys, &device_keys, b"exporter", &*entropy).unwrap();
        let grant = admin.volume.admit(&request, b"exporter").unwrap();
        let parts = Parts {
            store: store.clone(),
            blocks: blocks.clone(),
            clock: clock.clone(),
            entropy,
            secret: secret.clone(),
            device: device_keys,
            user: user_keys,
            archive: None,
            directory: None,
        };
        let volume = Volume::load(parts, grant.volume).unwrap();
        volume.accept(&grant).unwrap();
        let replica =
            Replica { name: name.to_owned(), volume, store, blocks, clock, archive: None, seed, secret, device, user };
        sync(admin, &replica);
        assert!(replica.volume.is_ready());
        replica
    }

    /// The next device of `first`'s user, let in by `first` and synced with it.
    pub fn next_device(name: &str, seed: u64, first: &Replica) -> Replica {
        let ticket = first.volume.invite_device(Some(Duration::from_secs(86_400))).unwrap();
        Self::device_for(name, seed, first, &ticket).unwrap()
    }

    /// A further device of the user of `first`, who lets it in for a ticket, or doesn't.
    pub fn device_for(name: &str, seed: u64, first: &Replica, ticket: &TicketSecret) -> Result<Replica> {
        let (store, blocks, clock, secret, device, _) = Self::empty(name, seed);
        clock.advance(Duration::from_secs(seed));
        let device_keys = DeviceKeys::from_bytes(&device).unwrap();
        let request = DeviceRequest::new(ticket, &device_keys, None, b"exporter");
        let grant = first.volume.admit_device(&request, b"exporter")?;
        let user = grant.open(&first.user_keys().id(), &device_keys).unwrap().to_bytes().to_vec();
        let parts = Parts {
            store: store.clone(),
            blocks: blocks.clone(),
            clock: clock.clone(),
            entropy: Arc::new(SeededEntropy::new(seed * 1000)),
            secret: secret.clone(),
            device: device_keys,
            user: UserKeys::from_bytes(&user).unwrap(),
            archive: None,
            directory: None,
        };
        let volume = Volume::load(parts, grant.volume).unwrap();
        volume.accept_device(&grant).unwrap();
        let replica =
            Replica { name: name.to_owned(), volume, store, blocks, clock, archive: None, seed, secret, device, user };
        sync(first, &replica);
        assert!(replica.volume.is_ready());
        Ok(replica)
    }

    /// This replica's device.
    pub fn device_id(&self) -> DeviceId {
        DeviceKeys::from_bytes(&self.device).unwrap().id()
    }

    /// Keys of this replica's device.
    pub fn device_keys(&self) -> DeviceKeys {
        DeviceKeys::from_bytes(&self.device).unwrap()
    }

    /// What seals this replica's rows.
    pub fn secret(&self) -> &SymmetricKey {
        &self.secret
    }

    /// Keys of this replica's user.
    pub fn user_keys(&self) -> UserKeys {
        UserKeys::from_bytes(&self.user).unwrap()
    }

    /// Opens the store again, as after the death of the process.
    pub fn restart(&mut self, salt: u64) {
        let id = self.volume.id();
        self.volume = Volume::load(self.parts(salt), id).unwrap();
    }

    /// Opens a store that is noticed to be an older copy.
    pub fn restart_as_copy(&mut self, salt: u64) {
        let id = self.volume.id();
        self.volume = Volume::load_copy(self.parts(salt), id).unwrap();
    }

    /// [`Self::restart`], which a damaged store may not survive.
    pub fn try_restart(&mut self, salt: u64) -> Result<()> {
        self.volume = Volume::load(self.parts(salt), self.volume.id())?;
        Ok(())
    }

    /// Builds the store anew from what can be read of it.
    pub fn salvage(&mut self, salt: u64) -> Salvaged {
        let old: Arc<dyn Store> = self.store.clone();
        self.salvage_from(Some(old), salt)
    }

    /// The same from another store, or none.
    pub fn salvage_from(&mut self, store: Option<Arc<dyn Store>>, salt: u64) -> Salvaged {
        self.store = Arc::new(MemoryStore::new());
        let id = self.volume.id();
        let remains = Remains { store, archive: self.open_archive() };
        let salvaged = salvage(remains, self.parts(salt), id, None, &mut |_| ()).unwrap();
        self.restart(salt + 1);
        salvaged
    }

    pub fn mkdir(&self, path: &str) -> Result<Ino> {
        let (parent, name) = self.parent(path)?;
        Ok(self.volume.make(parent, name.as_bytes(), NewNode::Directory, 0o755, &Caller::default())?.ino)
    }

    pub fn write(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let handle = self.open_to_write(path)?;
        self.volume.write(handle, 0, bytes, &Caller::default())?;
        self.close(handle)
    }

    /// Writes a part of a file that is there.
    pub fn write_at(&self, path: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        let mode = OpenMode { write: true, ..OpenMode::default() };
        let handle = self.volume.open(self.find(path)?, mode, &Caller::default())?;
        self.volume.write(handle, offset, bytes, &Caller::default())?;
        self.close(handle)
    }

    pub fn open_to_write(&self, path: &str) -> Result<Handle> {
        let (parent, name) = self.parent(path)?;
        let mode = OpenMode { write: true, truncate: true, ..OpenMode::default() };
        Ok(self.volume.create(parent, name.as_bytes(), 0o644, mode, false, &Caller::default())?.1)
    }

    pub fn close(&self, handle: Handle) -> Result<()> {
        self.volume.flush(handle)?;
        self.volume.release(handle)
    }

    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        let ino = self.find(path)?;
        let mode = OpenMode { read: true, ..OpenMode::default() };
        let handle = self.volume.open(ino, mode, &Caller::default())?;
        let mut bytes = Vec::new();
        let result = self.volume.read(handle, 0, 1 << 30, &mut bytes);
        self.volume.release(handle)?;
        result.map(|()| bytes)
    }

    pub fn remove(&self, path: &str) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        self.volume.unlink(parent, name.as_bytes())
    }

    pub fn rmdir(&self, path: &str) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        self.volume.rmdir(parent, name.as_bytes())
    }

    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (from, name) = self.parent(from)?;
        let (to, new_name) = self.parent(to)?;
        self.volume.rename(from, name.as_bytes(), to, new_name.as_bytes(), RenameMode::Replace)
    }

    pub fn link(&self, from: &str, to: &str) -> Result<()> {
        let ino = self.find(from)?;
        let (parent, name) = self.parent(to)?;
        self.volume.link(ino, parent, name.as_bytes()).map(|_| ())
    }

    pub fn find(&self, path: &str) -> Result<Ino> {
        let mut at = Ino::ROOT;
        for name in path.split('/').filter(|n| !n.is_empty()) {
            at = self.volume.lookup(at, name.as_bytes())?.ino;
        }
        Ok(at)
    }

    fn parent<'a>(&self, path: &'a str) -> Result<(Ino, &'a str)> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.find(parent)?, name))
    }

    /// The whole tree: a line per entry, with contents, in order.
    pub fn tree(&self) -> Vec<String> {
        let mut lines = Vec::new();
        self.walk(Ino::ROOT, "", 0, &mut lines);
        lines.sort();
        lines
    }

    fn walk(&self, directory: Ino, path: &str, depth: usize, lines: &mut Vec<String>) {
        assert!(depth < 64, "{}: directories without end", self.name);
        if depth.is_multiple_of(2) {
            self.volume.read_ahead(directory);
        }
        let mut after = 0;
        loop {
            let entries = match self.volume.read_directory(directory, after, 7) {
                Ok(entries) => entries,
                Err(p2pfs_volume::Error::Denied) => {
                    lines.push(format!("{path} unreadable: {}", p2pfs_volume::Error::Denied));
                    return;
                }
                Err(e) => panic!("{}: {path}: {e}", self.name),
            };
            if entries.is_empty() {
                return;
            }
            for entry in entries {
                after = entry.cookie;
                let name = String::from_utf8_lossy(&entry.name).into_owned();
                if name == "." || name == ".." {
                    continue;
                }
                let found = self.volume.lookup(directory, &entry.name).unwrap();
                assert_eq!(found.ino, entry.attributes.ino);
                let path = format!("{path}/{name}");
                let what = match found.kind {
                    NodeKind::Directory => "dir".to_owned(),
                    NodeKind::File => match self.read(&path) {
                        Ok(bytes) => format!(
                            "{} bytes {:?}",
                            bytes.len(),
                            String::from_utf8_lossy(&bytes[..bytes.len().min(24)])
                        ),
                        Err(e) => format!("unreadable: {e}"),
                    },
                    other => format!("{other:?}"),
                };
                lines.push(format!("{path} {what} links {}", found.links));
                if found.kind == NodeKind::Directory {
                    self.walk(found.ino, &path, depth + 1, lines);
                }
            }
        }
    }
}

/// Everything that `from` wants to say now.
fn drain(session: &Session) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Some(message) = session.next_outgoing() {
        messages.push(Message::decode(&message.encode()).unwrap());
    }
    messages
}

/// Connects two replicas until neither has anything more to say, contents included.
pub fn sync(a: &Replica, b: &Replica) {
    a.volume.commit_now().unwrap();
    b.volume.commit_now().unwrap();
    let device = |r: &Replica| DeviceKeys::from_bytes(&r.device).unwrap().id();
    let (at_a, at_b) = (a.volume.session(device(b)), b.volume.session(device(a)));
    let mut to_b = at_a.opening();
    let mut to_a = at_b.opening();
    for _ in 0..10_000 {
        for message in to_b.drain(..) {
            at_b.receive(message).unwrap();
        }
        for message in to_a.drain(..) {
            at_a.receive(message).unwrap();
        }
        let mut moved = 0;
        for (here, there) in [(&at_a, &at_b), (&at_b, &at_a)] {
            for hash in here.wanted(64) {
                match there.serve_block(&hash) {
                    Some(bytes) => here.block_arrived(&hash, &bytes).unwrap(),
                    None => here.block_failed(&hash),
                }
                moved += 1;
            }
        }
        to_b = drain(&at_a);
        to_a = drain(&at_b);
        if to_a.is_empty() && to_b.is_empty() && moved == 0 {
            return;
        }
    }
    panic!("two replicas never come to an end");
}
