//! Who may read and write, on replicas that meet in memory: keys for some alone, and commits of who cheats.

use crate::common::{
    Replica,
    forge::{Forger, commits, tell},
    sync,
};
use p2pfs_volume::{
    AttributeChange, Caller, Error, NodeKind, OpenMode, Role, SetXattr, Timestamp,
    commit::{AccessBody, ChangeKind, Commit, ContentBody, MetaBody, RawChange, encode},
    content::{BlockHash, Content, ContentData},
    id::{NodeId, ValueId},
};
use simulation::model::History;

const TIME: Timestamp = Timestamp { secs: 1_795_338_900, nanos: 0 };

/// Members on mounts of their own, where modes say who may what.
fn three(roles: [Role; 2]) -> [Replica; 3] {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, roles[0]);
    let carol = Replica::joined("carol", 3, &alice, roles[1]);
    for (uid, replica) in [(1000, &alice), (1001, &bob), (1002, &carol)] {
        replica.volume.set_own_mount(Some(uid));
    }
    meet(&alice, &bob);
    meet(&alice, &carol);
    [alice, bob, carol]
}

fn follow(replica: &Replica) {
    while replica.volume.unaligned().unwrap() > 0 {
        replica.volume.work();
    }
}

/// Until both have everything, and what lies in directories has followed them.
fn meet(a: &Replica, b: &Replica) {
    for _ in 0..3 {
        sync(a, b);
        [a, b].into_iter().for_each(follow);
    }
}

fn chmod(replica: &Replica, path: &str, mode: u16) -> Result<(), Error> {
    let change = AttributeChange { mode: Some(mode), ..AttributeChange::default() };
    replica.volume.set_attributes(replica.find(path)?, None, &change, &Caller::default()).map(drop)
}

fn is_denied<T: std::fmt::Debug>(done: Result<T, Error>) -> bool {
    matches!(done, Err(Error::Denied))
}

/// Sealed to whoever has no device left, a file would be lost to all.
#[test]
fn nothing_is_given_to_who_could_not_open_it() {
    let [alice, bob, carol] = three([Role::Writer; 2]);
    alice.write("own", b"1").unwrap();
    chmod(&alice, "own", 0o600).unwrap();
    alice.write("all", b"2").unwrap();
    let number = alice.volume.members().iter().find(|member| member.name == "bob").unwrap().number;
    let give = |path: &str| {
        let change = AttributeChange { owner: Some(number), ..AttributeChange::default() };
        alice.volume.set_attributes(alice.find(path).unwrap(), None, &change, &Caller::default()).map(drop)
    };
    alice.volume.remove_device(&bob.device_id()).unwrap();
    assert!(matches!(give("own"), Err(Error::NotPermitted)));
    assert_eq!(alice.read("own").unwrap(), b"1");
    // What others read, too, can be anybody's.
    give("all").unwrap();
    assert!(matches!(chmod(&alice, "all", 0o600), Err(Error::NotPermitted)));
    meet(&alice, &carol);
    assert_eq!(carol.read("all").unwrap(), b"2");
    alice.volume.remove_user(&bob.user_keys().id()).unwrap();
    assert!(matches!(give("own"), Err(Error::NotPermitted)));
    assert_eq!(alice.read("own").unwrap(), b"1");
}

/// The owner's device and an admin's bring the same in line, apart from each other; then the folder is opened again.
#[test]
fn what_two_brought_in_line_follows_still() {
    let [alice, bob, carol] = &three([Role::Writer, Role::Admin]);
    alice.mkdir("d").unwrap();
    alice.write("d/f", b"text").unwrap();
    meet(alice, carol);
    meet(alice, bob);
    chmod(alice, "d", 0o700).unwrap();
    sync(alice, carol);
    follow(carol);
    follow(alice);
    chmod(alice, "d", 0o770).unwrap();
    follow(alice);
    meet(alice, carol);
    meet(alice, bob);
    assert_eq!(bob.read("d/f").unwrap(), b"text");
    assert_eq!(alice.tree(), bob.tree());
    let commits = alice.volume.status().commits;
    meet(alice, carol);
    assert_eq!(alice.volume.status().commits, commits, "nobody goes on for ever");
}

#[test]
fn what_came_sealed_opens_with_the_key() {
    let [alice, bob, carol] = &three([Role::Writer, Role::Reader]);
    alice.mkdir("d").unwrap();
    chmod(alice, "d", 0o700).unwrap();
    alice.mkdir("d/e").unwrap();
    let big = vec![7; 300_000];
    alice.write("d/e/big", &big).unwrap();
    alice.write("d/small", b"small").unwrap();
    alice.write("d/e/moved", b"moved").unwrap();
    alice.rename("d/e/moved", "d/moved").unwrap();
    let small = alice.find("d/small").unwrap();
    alice.volume.set_xattr(small, b"user.a", b"1", SetXattr::Any, &Caller::default()).unwrap();
    meet(alice, bob);
    assert!(is_denied(bob.read("d/small")) && is_denied(bob.find("d/e")));
    assert!(bob.volume.attributes(bob.find("d").unwrap()).unwrap().sealed);
    chmod(alice, "d", 0o770).unwrap();
    meet(alice, bob);
    meet(alice, carol);
    assert_eq!((alice.tree(), alice.tree()), (bob.tree(), carol.tree()));
    assert_eq!(bob.read("d/e/big").unwrap(), big);
    assert_eq!(bob.volume.get_xattr(bob.find("d/small").unwrap(), b"user.a").unwrap(), b"1");
    // And closes again, for good what is written from then on.
    chmod(alice, "d", 0o700).unwrap();
    alice.write("d/small", b"later").unwrap();
    meet(alice, bob);
    assert!(is_denied(bob.read("d/small")));
    assert!(is_denied(bob.mkdir("d/new")));
    assert_eq!(alice.read("d/small").unwrap(), b"later");
}

#[test]
fn who_reads_needs_no_luck_in_the_order_of_what_comes() {
    let [alice, bob, carol] = &three([Role::Writer, Role::Writer]);
    alice.write("f", b"one").unwrap();
    chmod(alice, "f", 0o600).unwrap();
    meet(alice, bob);
    alice.write("f", b"two").unwrap();
    chmod(alice, "f", 0o640).unwrap();
    alice.write("f", b"three").unwrap();
    chmod(alice, "f", 0o600).unwrap();
    alice.write("f", b"four").unwrap();
    chmod(alice, "f", 0o660).unwrap();
    // Bob heard of it in parts, carol at once.
    meet(alice, bob);
    meet(bob, carol);
    for replica in [alice, bob, carol] {
        assert_eq!(replica.read("f").unwrap(), b"four", "{}", replica.name);
    }
    carol.write("f", b"five").unwrap();
    meet(bob, carol);
    meet(alice, bob);
    assert_eq!(alice.read("f").unwrap(), b"five");
}

fn number_of(replica: &Replica, name: &str) -> u32 {
    replica.volume.members().into_iter().find(|member| member.name == name).unwrap().number
}

/// An entry of a list of access, as its extended attribute has it.
fn entry(&(tag, bits, id): &(u16, u16, u32)) -> Vec<u8> {
    [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat()
}

/// Two who narrow one node apart make two keys of one generation; whoever may read by both opens what either sealed.
#[test]
fn two_who_narrow_apart_lose_nothing() {
    let [alice, bob, carol] = &three([Role::Admin, Role::Writer]);
    alice.write("f", b"base").unwrap();
    chmod(alice, "f", 0o660).unwrap();
    meet(alice, bob);
    meet(alice, carol);
    // For bob alone, beside alice; bob's own account stands for him on his mount.
    for (replica, number) in [(alice, number_of(alice, "bob")), (bob, 1001)] {
        let list = [(1, 6, 0), (2, 6, number), (4, 0, 0), (0x10, 6, 0), (0x20, 0, 0)];
        let value: Vec<u8> = [2, 0, 0, 0].into_iter().chain(list.iter().flat_map(entry)).collect();
        let f = replica.find("f").unwrap();
        let name = b"system.posix_acl_access";
        replica.volume.set_xattr(f, name, &value, SetXattr::Any, &Caller::default()).unwrap();
        assert_eq!(replica.volume.get_xattr(f, name).unwrap(), value);
    }
    alice.write("f", b"by alice").unwrap();
    meet(alice, bob);
    meet(alice, carol);
    meet(alice, bob);
    assert_eq!(bob.read("f").unwrap(), b"by alice");
    bob.write("f", b"by bob").unwrap();
    meet(alice, bob);
    meet(alice, carol);
    assert_eq!(alice.read("f").unwrap(), b"by bob");
    assert!(is_denied(carol.read("f")));
}

#[test]
fn a_copy_does_not_take_the_key_of_a_private_file_along() {
    let [alice, bob, _] = &three([Role::Writer, Role::Writer]);
    let big = vec![9; 200_000];
    alice.write("private", &big).unwrap();
    chmod(alice, "private", 0o600).unwrap();
    alice.write("private", &big).unwrap();
    alice.write("copy", b"").unwrap();
    chmod(alice, "copy", 0o644).unwrap();
    let open = |path: &str, write: bool| {
        let mode = OpenMode { read: !write, write, ..OpenMode::default() };
        alice.volume.open(alice.find(path).unwrap(), mode, &Caller::default()).unwrap()
    };
    let (from, to) = (open("private", false), open("copy", true));
    assert_eq!(alice.volume.copy_range(from, 0, to, 0, 1 << 20).unwrap(), big.len() as u64);
    alice.close(to).unwrap();
    alice.close(from).unwrap();
    alice.write("private", b"not for bob").unwrap();
    meet(alice, bob);
    assert_eq!(bob.read("copy").unwrap(), big);
    let known = commits(alice, bob);
    let history = History::new(&known, &alice.user_keys());
    // Its content needs no other key than its own.
    let of_copy = history.changes().filter_map(|change| match change.head.kind {
        ChangeKind::Content { node, root, generation: 1, .. } if root != BlockHash::ZERO && history.has_key(node) => {
            Some(history.body::<ContentBody>(&change, node))
        }
        _ => None,
    });
    let keys: Vec<usize> = of_copy.map(|body| body.keys.len()).collect();
    assert_eq!(keys.last(), Some(&0), "{keys:?}");
}

/// What bob tells with a program of his own, of files that he may read.
struct Cheat<'a> {
    known: &'a [Commit],
    history: &'a History<'a>,
    bob: &'a Replica,
}

impl Cheat<'_> {
    fn content(&self, log: u64, node: NodeId, gone: Vec<ValueId>) -> (u64, RawChange) {
        let forger = Forger::new(self.known, self.history, self.bob, log);
        let content = Content { size: 6, allocated: 6, data: ContentData::Inline(b"forged".to_vec()) };
        let kind = ChangeKind::Content { node, generation: 1, root: BlockHash::ZERO, blocks: 0 };
        let body = ContentBody { mtime: TIME, content, keys: Vec::new() };
        (log, forger.change(0, kind, gone, self.history.node_key(node), &body))
    }
}

#[test]
fn nothing_that_somebody_may_not_do_shows_anywhere() {
    let [alice, bob, carol] = &three([Role::Writer, Role::Writer]);
    alice.write("f", b"alice's").unwrap();
    alice.write("open", b"alice's").unwrap();
    alice.mkdir("d").unwrap();
    alice.write("d/g", b"in d").unwrap();
    for (path, mode) in [("f", 0o640), ("open", 0o660), ("d", 0o750), ("d/g", 0o660)] {
        chmod(alice, path, mode).unwrap();
    }
    meet(alice, bob);
    meet(alice, carol);
    let known = commits(alice, bob);
    let history = History::new(&known, &alice.user_keys());
    let live = |is: &dyn Fn(&ChangeKind) -> bool| {
        let changes = history.changes().filter(|c| is(&c.head.kind));
        history.live(changes).iter().map(|c| c.id()).collect::<Vec<ValueId>>()
    };
    // By their contents and places, the nodes in the order in which they were made.
    let births: Vec<(NodeId, NodeKind)> = history
        .changes()
        .filter_map(|c| match c.head.kind {
            ChangeKind::Birth { kind, .. } if c.born() != NodeId::ROOT => Some((c.born(), kind)),
            _ => None,
        })
        .collect();
    let [(f, _), (open, _), (d, NodeKind::Directory), (g, _)] = births[..] else { panic!("{births:?}") };
    let contents = |of: NodeId| live(&|kind| matches!(kind, ChangeKind::Content { node, .. } if *node == of));
    let accesses = |of: NodeId| live(&|kind| matches!(kind, ChangeKind::Access { node, .. } if *node == of));
    let places = |of: NodeId| live(&|kind| matches!(kind, ChangeKind::Place { child, .. } if *child == of));
    let link = |of: NodeId| {
        let place = history.changes().find(|c| matches!(c.head.kind, ChangeKind::Place { child, .. } if child == of));
        place.unwrap().link(None)
    };
    let cheat = Cheat { known: &known, history: &history, bob };
    let forger = |log| Forger::new(&known, &history, bob, log);
    let key = |of: NodeId| history.node_key(of);
    let me = bob.user_keys().id();
    let head = |log, of: NodeId, owner, mode| {
        let mut head = forger(log).access(owner, 1, key(of));
        head.mode = mode;
        head
    };
    let body = AccessBody { time: TIME, mode: 0o666, uid: 0, gid: 0, acl: Vec::new(), default_acl: Vec::new() };
    let meta = MetaBody { time: TIME, mtime: Some(TIME), atime: TIME };
    let owner = alice.user_keys().id();
    let mut forged: Vec<(&str, u64, Vec<RawChange>)> = Vec::new();
    let (log, change) = cheat.content(101, f, contents(f));
    forged.push(("content", log, vec![change]));
    let kind = ChangeKind::Meta { node: f, generation: 1 };
    forged.push(("times", 103, vec![forger(103).change(0, kind, Vec::new(), key(f), &meta)]));
    let kind = ChangeKind::Access { node: f, access: head(105, f, me, 0o660) };
    forged.push(("takes it", 105, vec![forger(105).change(0, kind, accesses(f), key(f), &body)]));
    let kind = ChangeKind::Access { node: open, access: head(107, open, owner, 0o640) };
    forged.push(("closes what he may write", 107, vec![forger(107).change(0, kind, accesses(open), key(open), &body)]));
    let out = forger(109).place(0, Some(link(g)), g, (NodeId::ROOT, key(NodeId::ROOT)), "out", places(g));
    forged.push(("moves out", 109, vec![out]));
    let inside = forger(111).place(0, Some(link(open)), open, (d, key(d)), "inside", places(open));
    forged.push(("moves in", 111, vec![inside]));
    let again = forger(113).place(0, None, open, (d, key(d)), "again", Vec::new());
    forged.push(("links in", 113, vec![again]));
    let kind = ChangeKind::Removal { link: link(g), child: g, time: TIME };
    let removal = encode(&p2pfs_volume::commit::Head { call: 0, kind, supersedes: places(g) });
    forged.push(("removes", 115, vec![RawChange { head: removal, body: Vec::new() }]));
    // What is allowed beside what isn't counts for nothing either.
    let (_, allowed) = cheat.content(117, open, contents(open));
    let kind = ChangeKind::Meta { node: f, generation: 1 };
    let denied = forger(117).change(1, kind, Vec::new(), key(f), &meta);
    forged.push(("beside something allowed", 117, vec![allowed, denied]));
    let before = alice.tree();
    for (what, log, changes) in forged {
        let commit = forger(log).sign(changes);
        for replica in [carol, alice] {
            tell(replica, bob, &[&commit]).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(replica.tree(), before, "{what}, {}", replica.name);
            let f = replica.volume.attributes(replica.find("f").unwrap()).unwrap();
            assert_eq!(f.mode, 0o640, "{what}");
            assert_ne!(f.mtime, TIME, "{what}");
            assert_eq!(replica.volume.access(&[b"open".to_vec()]).unwrap().owner, "alice", "{what}");
        }
    }
    // What he may do counts, but that a mode or a list in what only readers see is set by who may only write.
    let (log, change) = cheat.content(119, open, contents(open));
    let again = forger(log).sign(vec![change]);
    let kind = ChangeKind::Access { node: open, access: head(121, open, owner, 0o660) };
    let set = AccessBody { mode: 0o777, ..body };
    let rekeyed = forger(121).sign(vec![forger(121).change(0, kind, accesses(open), key(open), &set)]);
    for replica in [alice, carol] {
        tell(replica, bob, &[&again, &rekeyed]).unwrap();
        assert_eq!(replica.read("open").unwrap(), b"forged", "{}", replica.name);
        assert_eq!(replica.volume.attributes(replica.find("open").unwrap()).unwrap().mode, 0o660);
    }
    meet(alice, carol);
    assert_eq!(alice.tree(), carol.tree());
}
