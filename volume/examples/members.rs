//! What many members cost: makes a volume of as many users as wanted with ten devices each, and measures what is done
//! about members, and beside them. `scripts/bench` runs it; it knows the volume alone, not the mount.
//!
//!     members run DIR USERS    makes such a volume in DIR, has a newcomer take all of it in, and prints what calls
//!                              take on its owner's device and at that newcomer, as one line of JSON
//!     members open DIR         the same of opening the owner's copy
//!
//! Everybody is admitted by the owner's own calls. What the users' devices would do, letting in the other nine of them, is
//! signed here as they would sign it: ten thousand replicas fit no machine. Each further device also signs one commit of
//! its own, so there are as many logs as devices. A user was removed before all others came: from then on
//! everybody's commits are judged by who was removed.

#![allow(clippy::unwrap_used, reason = "what fails here ends the measurement")]

#[path = "../benches/on_disk/mod.rs"]
mod on_disk;

use std::{
    env, fs,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use crypto::{
    DeviceId, DeviceKeys, Label, OsEntropy, SeededEntropy, SigningKeys, UserId, UserKeys, VolumeId, random_array,
};
use on_disk::{Connection, Replica};
use p2pfs_volume::{
    AttributeChange, Caller, DeviceRequest, Ino, JoinRequest, Message, Role, Session, SetXattr, Timestamp,
    commit::{ChangeKind, ClaimedCommit, FORMAT_VERSION, Head, Header, RawChange, changes_root, commit_hash, encode},
    id::CommitHash,
};

/// Of each user.
const DEVICES: usize = 10;
/// Of each figure.
const SAMPLES: usize = 5;
const DAY: Duration = Duration::from_hours(24);
const EXPORTER: &[u8] = b"exporter";
const TIME: Timestamp = Timestamp { secs: 1_795_338_900, nanos: 0 };
const BODY: [u8; 1024] = [7; 1024];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["run", dir, users] => run(Path::new(dir), users.parse().unwrap()),
        ["open", dir] => open(Path::new(dir)),
        _ => {
            eprintln!("usage: members run DIR USERS | members open DIR");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// Someone of whom only the keys are there.
struct Person {
    user: UserKeys,
    devices: Vec<DeviceKeys>,
}

impl Person {
    fn new(seed: u64) -> Self {
        let entropy = SeededEntropy::new(seed);
        let user = UserKeys::generate(&entropy);
        Self { user, devices: (0..DEVICES).map(|_| DeviceKeys::generate(&entropy)).collect() }
    }

    fn id(&self) -> UserId {
        self.user.id()
    }

    /// Admitted by the owner with the first device.
    fn join(&self, alice: &Replica, name: &str) {
        let ticket = alice.volume.invite(Role::Writer, DAY).unwrap();
        let request = JoinRequest::new(&ticket, name, &self.user, &self.devices[0], EXPORTER, &OsEntropy).unwrap();
        alice.volume.admit(&request, EXPORTER).unwrap();
    }

    /// The commits by which the first device lets in the others, each a commit of the invitation and one of the admission;
    /// and a first one of each of those.
    fn let_in(&self, volume: VolumeId, newest: Newest) -> Vec<ClaimedCommit> {
        let mut first = Log::new(volume, &self.devices[0], newest);
        let mut commits = Vec::new();
        for device in &self.devices[1..] {
            let ticket = SigningKeys::from_seed(random_array(&OsEntropy)).public();
            commits.push(first.sign(vec![ChangeKind::InviteDevice { ticket, expires: Some(TIME.plus(DAY)) }]));
            commits.push(first.sign(vec![self.admission(ticket, device)]));
        }
        let all_in = first.newest();
        commits.extend(self.devices[1..].iter().map(|device| Log::new(volume, device, all_in).sign(Vec::new())));
        commits
    }

    fn admission(&self, ticket: crypto::PublicKey, device: &DeviceKeys) -> ChangeKind {
        let (signing, device) = (self.user.signing.as_ref().unwrap(), device.public());
        // One key, of generation 0.
        let secrets = [&0u32.to_le_bytes()[..], &*self.user.boxes.to_bytes()].concat();
        ChangeKind::Device {
            ticket,
            user: self.id(),
            device,
            certificate: signing.sign(Label::DeviceCertificate, &encode(&device)),
            user_key: device.box_key.seal(Label::BoxUserKey, self.id().as_bytes(), &secrets, &OsEntropy).unwrap(),
            proof: None,
        }
    }
}

/// The newest commit somebody has seen, and its count.
type Newest = (CommitHash, u64);

/// A device's log as it signs it.
struct Log<'a> {
    volume: VolumeId,
    device: &'a DeviceKeys,
    observed: Vec<CommitHash>,
    prev: CommitHash,
    seq: u64,
    count: u64,
}

impl<'a> Log<'a> {
    fn new(volume: VolumeId, device: &'a DeviceKeys, (seen, count): Newest) -> Self {
        Self { volume, device, observed: vec![seen], prev: CommitHash::ZERO, seq: 0, count }
    }

    fn sign(&mut self, kinds: Vec<ChangeKind>) -> ClaimedCommit {
        (self.seq, self.count) = (self.seq + 1, self.count + 1);
        let change =
            |kind| RawChange { head: encode(&Head { call: 0, kind, supersedes: Vec::new() }), body: Vec::new() };
        let changes: Vec<RawChange> = kinds.into_iter().map(change).collect();
        let header = encode(&Header {
            version: FORMAT_VERSION,
            volume: self.volume,
            device: self.device.id(),
            log: 0,
            seq: self.seq,
            prev: self.prev,
            observed: std::mem::take(&mut self.observed),
            count: self.count,
            time: TIME,
            root: changes_root(changes.iter()),
            changes: changes.len() as u32,
        });
        self.prev = commit_hash(&header);
        let signature = self.device.signing.sign(Label::CommitSignature, &header);
        ClaimedCommit { header, signature, changes }
    }

    fn newest(&self) -> Newest {
        (self.prev, self.count)
    }
}

/// Who hears what the owner's device commits, and tells it what the users' devices do.
struct Go {
    session: Session,
    newest: Newest,
}

impl Go {
    fn between(alice: &Replica, member: DeviceId) -> Self {
        let session = alice.volume.session(member);
        session.receive(Message::Tips(Vec::new())).unwrap();
        Self { session, newest: (CommitHash::ZERO, 0) }
    }

    /// The newest commit of the owner's device.
    fn newest(&mut self) -> Newest {
        while let Some(message) = self.session.next_outgoing() {
            if let Message::Commits(commits) = message {
                let last = commits.into_iter().last().unwrap().check().unwrap();
                self.newest = (last.hash, last.header.count);
            }
        }
        self.newest
    }
}

/// How long something takes where it is done and at another replica, and how many bytes go there.
#[derive(Default)]
struct Both {
    here: Vec<Duration>,
    there: Vec<Duration>,
    bytes: usize,
}

impl Both {
    fn measure(&mut self, connection: &Connection, call: impl FnOnce()) {
        self.here.push(timed(call));
        let messages = connection.said_by_a();
        self.bytes = messages.iter().map(|message| message.encode().len()).sum();
        self.there.push(timed(|| connection.to_b(messages)));
        connection.settle();
    }

    fn told(self, name: &str) -> String {
        format!(
            "\"{name}_ms\": {}, \"{name}_there_ms\": {}, \"{name}_bytes\": {}",
            median(self.here) * 1e3,
            median(self.there) * 1e3,
            self.bytes
        )
    }
}

fn run(dir: &Path, users: usize) {
    let begun = Instant::now();
    let alice = Replica::founded(&dir.join("alice"), 1);
    let id = alice.volume.id();
    fs::write(dir.join("id"), id.as_bytes()).unwrap();
    alice.volume.set_own_mount(Some(1000));
    let olga = Person::new(100);
    olga.join(&alice, "olga");
    let gone = Person::new(101);
    gone.join(&alice, "gone");
    alice.volume.remove_user(&gone.id()).unwrap();

    let people: Vec<Person> = (0..users as u64).map(|n| Person::new(1000 + n)).collect();
    let mut go = Go::between(&alice, olga.devices[0].id());
    for (n, person) in people.iter().enumerate() {
        person.join(&alice, &format!("user{n}"));
        let commits = person.let_in(id, go.newest());
        go.session.receive(Message::Commits(commits)).unwrap();
    }
    drop(go);
    let mut told = vec![format!("\"made_s\": {}", begun.elapsed().as_secs_f64())];
    told.push(format!("\"made_mib\": {}", resident()));
    eprintln!("made: {}", told.join(", "));

    let bob = Replica::admitted(&dir.join("bob"), 2, &alice);
    let first = timed(|| Connection::between(&alice, &bob).settle());
    assert_eq!(bob.volume.status().commits, alice.volume.status().commits);
    told.push(format!("\"first_sync_s\": {}, \"memory_sync_mib\": {}", first.as_secs_f64(), peak()));
    eprintln!("first sync: {}", told.join(", "));
    told.push(format!("\"commits\": {}", alice.volume.status().commits));

    let connection = Connection::between(&alice, &bob);
    connection.settle();
    let mut measure = |name: &str, samples: usize, each: &mut dyn FnMut(usize)| {
        let mut both = Both::default();
        for i in 0..samples {
            both.measure(&connection, || each(i));
        }
        told.push(both.told(name));
        eprintln!("{}", told.last().unwrap());
    };

    let home = alice.directory(Ino::ROOT, "home");
    measure("write", 100, &mut |i| {
        alice.file(home, &format!("f{i}"), &BODY);
        alice.volume.commit_now().unwrap();
    });
    measure("admit", SAMPLES, &mut |i| Person::new(10_000_000 + i as u64).join(&alice, &format!("late{i}")));
    let phones: Vec<DeviceKeys> =
        (0..SAMPLES as u64).map(|n| DeviceKeys::generate(&SeededEntropy::new(200 + n))).collect();
    measure("device", SAMPLES, &mut |i| {
        let ticket = alice.volume.invite_device(Some(DAY)).unwrap();
        let request = DeviceRequest::new(&ticket, &phones[i], None, EXPORTER);
        alice.volume.admit_device(&request, EXPORTER).unwrap();
    });
    let who = Caller::default();
    let files: Vec<Ino> = (0..2 * SAMPLES).map(|i| alice.file(home, &format!("own{i}"), &BODY).ino).collect();
    let numbers: Vec<u32> =
        alice.volume.members().iter().filter(|member| !member.me).map(|member| member.number).collect();
    measure("private", SAMPLES, &mut |i| {
        let change = AttributeChange { mode: Some(0o600), ..AttributeChange::default() };
        alice.volume.set_attributes(files[i], None, &change, &who).unwrap();
        alice.volume.commit_now().unwrap();
    });
    // A realm of their own each time.
    measure("named", SAMPLES, &mut |i| {
        let list = named(&[numbers[i]]);
        let name = b"system.posix_acl_access";
        alice.volume.set_xattr(files[SAMPLES + i], name, &list, SetXattr::Any, &who).unwrap();
        alice.volume.commit_now().unwrap();
    });
    measure("remove_device", SAMPLES, &mut |i| alice.volume.remove_device(&phones[i].id()).unwrap());
    measure("remove_other_device", SAMPLES, &mut |i| {
        alice.volume.remove_device(&people[i + SAMPLES].devices[3].id()).unwrap();
    });
    measure("remove_user", SAMPLES, &mut |i| alice.volume.remove_user(&people[i].id()).unwrap());
    measure("late_write", 100, &mut |i| {
        alice.file(home, &format!("g{i}"), &BODY);
        alice.volume.commit_now().unwrap();
    });
    // As every time that two devices meet again.
    let meet = samples(SAMPLES, |i| {
        alice.file(home, &format!("h{i}"), &BODY);
        alice.volume.commit_now().unwrap();
        Connection::between(&alice, &bob).settle();
    });
    told.push(format!("\"meet_ms\": {}", median(meet) * 1e3));
    told.push(format!("\"list_ms\": {}", median(samples(SAMPLES, |_| drop(alice.volume.members()))) * 1e3));
    told.push(format!("\"devices_ms\": {}", median(samples(SAMPLES, |_| drop(alice.volume.devices()))) * 1e3));
    assert_eq!(bob.volume.status().commits, alice.volume.status().commits);
    bob.close();
    alice.close();
    println!("{{{}}}", told.join(", "));
}

fn open(dir: &Path) {
    let id = VolumeId::from_bytes(fs::read(dir.join("id")).unwrap().try_into().unwrap());
    let mut opens = Vec::new();
    let before = resident();
    let mut memory = 0;
    for _ in 0..SAMPLES {
        let begun = Instant::now();
        let alice = Replica::opened(&dir.join("alice"), 1, id);
        opens.push(begun.elapsed());
        memory = resident();
        alice.close();
    }
    println!(
        "{{\"open_ms\": {}, \"memory_open_mib\": {memory}, \"memory_before_mib\": {before}}}",
        median(opens) * 1e3
    );
}

/// A list of access that names these users beside the owner.
fn named(numbers: &[u32]) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let mut entries = vec![(0x01u16, 6u16, NOBODY)];
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    entries.extend(numbers.into_iter().map(|number| (0x02, 4, number)));
    entries.extend([(0x04, 0, NOBODY), (0x10, 4, NOBODY), (0x20, 0, NOBODY)]);
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, bits, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&bits.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

fn timed(call: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    call();
    begun.elapsed()
}

fn samples(count: usize, mut run: impl FnMut(usize)) -> Vec<Duration> {
    (0..count).map(|i| timed(|| run(i))).collect()
}

/// Of the middle one, in seconds.
fn median(mut samples: Vec<Duration>) -> f64 {
    samples.sort();
    samples[samples.len() / 2].as_secs_f64()
}

/// MiB of this process that are in memory.
fn resident() -> u64 {
    memory("VmRSS:")
}

/// MiB of this process that were in memory at most.
fn peak() -> u64 {
    memory("VmHWM:")
}

fn memory(what: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}
