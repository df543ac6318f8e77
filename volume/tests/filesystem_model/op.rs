//! The calls, with indices that wrap around what exists: a shrunk life still means something.

use p2pfs_volume::{Allocate, RenameMode, SetXattr};
use proptest::prelude::*;

/// A name of an entry or an attribute.
pub type Name = &'static str;
/// Picks one of what there is.
pub type Pick = usize;

/// A kind of node to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    File,
    Directory,
    Symlink { target: &'static str },
    Fifo,
    Device { rdev: u32 },
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Read,
    Write,
    Append,
    Truncate,
}

/// Attributes to set; what is `None` stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct Set {
    pub mode: Option<u16>,
    pub uid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<i64>,
    pub mtime: Option<i64>,
}

/// One call, or what happens to the machine.
#[derive(Clone, Debug)]
pub enum Op {
    Make {
        dir: Pick,
        name: Name,
        what: Make,
        mode: u16,
        uid: u32,
    },
    Create {
        dir: Pick,
        name: Name,
        how: How,
        exclusive: bool,
    },
    Lookup {
        dir: Pick,
        name: Name,
    },
    Link {
        node: Pick,
        dir: Pick,
        name: Name,
    },
    /// A name for each that is free, more than its row holds.
    LinkMany {
        node: Pick,
        dir: Pick,
    },
    Unlink {
        dir: Pick,
        name: Name,
    },
    Rmdir {
        dir: Pick,
        name: Name,
    },
    Rename {
        dir: Pick,
        name: Name,
        to: Pick,
        new: Name,
        mode: RenameMode,
    },
    Open {
        node: Pick,
        how: How,
    },
    Read {
        handle: Pick,
        offset: usize,
        len: usize,
    },
    Write {
        handle: Pick,
        offset: u64,
        fill: u8,
        len: usize,
        uid: u32,
    },
    Flush {
        handle: Pick,
    },
    Release {
        handle: Pick,
    },
    Fsync {
        handle: Pick,
    },
    SetAttributes {
        node: Pick,
        through: Option<Pick>,
        set: Set,
        uid: u32,
    },
    Allocate {
        handle: Pick,
        mode: Allocate,
        offset: u64,
        len: u64,
    },
    CopyRange {
        from: Pick,
        from_offset: u64,
        to: Pick,
        to_offset: u64,
        len: u64,
    },
    SeekData {
        handle: Pick,
        offset: u64,
    },
    SeekHole {
        handle: Pick,
        offset: u64,
    },
    SetXattr {
        node: Pick,
        name: Name,
        len: usize,
        how: SetXattr,
    },
    GetXattr {
        node: Pick,
        name: Name,
    },
    RemoveXattr {
        node: Pick,
        name: Name,
    },
    ReadLink {
        node: Pick,
    },
    /// Begins to list a directory.
    ListBegin {
        dir: Pick,
    },
    /// Goes on with a listing.
    ListNext {
        listing: Pick,
        limit: usize,
    },
    /// Publishes and syncs, as the committer does after a while.
    Commit,
    /// Closed in order and opened again.
    Remount,
    /// The process dies and the volume is opened again.
    Kill,
    /// The machine loses power, and the volume is opened again.
    PowerLoss,
}

pub const GOOD: [Name; 8] = ["a", "b", "c", "d", "e.txt", "ä", ".hidden", "a b"];
/// One byte longer than a name may be, and as long as one may be.
const LONG: &str = "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\
                    0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\
                    01234567890123456789012345678901234567890123456789012345";

fn name() -> impl Strategy<Value = Name> {
    prop_oneof![
        60 => proptest::sample::select(&GOOD[..4]),
        10 => proptest::sample::select(&GOOD[..]),
        1 => proptest::sample::select(vec!["", ".", "..", "x/y", "x\0y", LONG, &LONG[1..]]),
    ]
}

fn attribute() -> impl Strategy<Value = Name> {
    prop_oneof![
        12 => proptest::sample::select(vec!["user.a", "user.b", "user.c", "user.d", "user.e", "user.f", "trusted.a"]),
        1 => proptest::sample::select(vec!["", LONG]),
    ]
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![3 => Just(How::Read), 5 => Just(How::Write), 2 => Just(How::Append), 1 => Just(How::Truncate)]
}

/// Around the edges of inline contents and of blocks.
fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => 0u64..20,
        4 => 4080u64..4110,
        3 => 65_500u64..65_580,
        2 => 131_040u64..131_100,
        2 => 0u64..200_000,
    ]
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 1usize..40, 3 => 4000usize..4200, 2 => 65_500usize..65_580, 1 => 1usize..140_000]
}

/// Far past everything: what ends there must be refused.
fn far() -> impl Strategy<Value = u64> {
    prop_oneof![Just((1u64 << 46) - 1), Just(1u64 << 46), Just(u64::MAX - 3)]
}

fn make() -> impl Strategy<Value = Make> {
    prop_oneof![
        5 => Just(Make::File),
        8 => Just(Make::Directory),
        2 => proptest::sample::select(vec!["a", "../b", "", "x\0"]).prop_map(|target| Make::Symlink { target }),
        1 => Just(Make::Fifo),
        1 => (1u32..9).prop_map(|rdev| Make::Device { rdev }),
    ]
}

fn mode() -> impl Strategy<Value = u16> {
    proptest::sample::select(vec![0o644, 0o755, 0o600, 0o4755, 0o2775, 0o2644, 0o1777, 0])
}

fn uid() -> impl Strategy<Value = u32> {
    proptest::sample::select(vec![0, 1000])
}

fn set() -> impl Strategy<Value = Set> {
    let size = prop_oneof![8 => offset(), 1 => Just((1u64 << 46) + 1)];
    let nothing = Set::default();
    prop_oneof![
        3 => mode().prop_map(move |mode| Set { mode: Some(mode), ..nothing }),
        1 => (1u32..5).prop_map(move |uid| Set { uid: Some(uid), ..nothing }),
        6 => size.prop_map(move |size| Set { size: Some(size), ..nothing }),
        1 => (-5i64..99).prop_map(move |time| Set { mtime: Some(time), ..nothing }),
        1 => (-5i64..99).prop_map(move |time| Set { atime: Some(time), ..nothing }),
        1 => (mode(), offset(), 0i64..9).prop_map(|(mode, size, time)| Set {
            mode: Some(mode), uid: Some(3), size: Some(size), atime: Some(time), mtime: Some(time + 1),
        }),
    ]
}

fn allocate() -> impl Strategy<Value = Allocate> {
    prop_oneof![
        1 => Just(Allocate::Extend),
        1 => Just(Allocate::KeepSize),
        4 => Just(Allocate::PunchHole),
        2 => any::<bool>().prop_map(|keep_size| Allocate::ZeroRange { keep_size }),
    ]
}

/// Any of them.
pub fn op() -> impl Strategy<Value = Op> {
    let pick = || 0usize..100;
    let names = prop_oneof![
        8 => (pick(), name(), make(), mode(), uid())
            .prop_map(|(dir, name, what, mode, uid)| Op::Make { dir, name, what, mode, uid }),
        8 => (pick(), name(), how(), any::<bool>())
            .prop_map(|(dir, name, how, exclusive)| Op::Create { dir, name, how, exclusive }),
        1 => (pick(), name()).prop_map(|(dir, name)| Op::Lookup { dir, name }),
        4 => (pick(), pick(), name()).prop_map(|(node, dir, name)| Op::Link { node, dir, name }),
        1 => (pick(), pick()).prop_map(|(node, dir)| Op::LinkMany { node, dir }),
        5 => (pick(), name()).prop_map(|(dir, name)| Op::Unlink { dir, name }),
        3 => (pick(), name()).prop_map(|(dir, name)| Op::Rmdir { dir, name }),
        10 => (pick(), name(), pick(), name(), prop_oneof![
                4 => Just(RenameMode::Replace), 1 => Just(RenameMode::NoReplace), 2 => Just(RenameMode::Exchange),
            ]).prop_map(|(dir, name, to, new, mode)| Op::Rename { dir, name, to, new, mode }),
        2 => pick().prop_map(|dir| Op::ListBegin { dir }),
        4 => (pick(), 1usize..5).prop_map(|(listing, limit)| Op::ListNext { listing, limit }),
    ]
    .boxed();
    let files = prop_oneof![
        6 => (pick(), how()).prop_map(|(node, how)| Op::Open { node, how }),
        4 => (pick(), 0usize..140_000, len()).prop_map(|(handle, offset, len)| Op::Read { handle, offset, len }),
        14 => (pick(), offset(), any::<u8>(), len(), uid())
            .prop_map(|(handle, offset, fill, len, uid)| Op::Write { handle, offset, fill, len, uid }),
        1 => (pick(), far()).prop_map(|(handle, offset)| Op::Write { handle, offset, fill: 1, len: 2, uid: 0 }),
        3 => pick().prop_map(|handle| Op::Flush { handle }),
        5 => pick().prop_map(|handle| Op::Release { handle }),
        3 => pick().prop_map(|handle| Op::Fsync { handle }),
        6 => (pick(), allocate(), offset(), 0u64..140_000)
            .prop_map(|(handle, mode, offset, len)| Op::Allocate { handle, mode, offset, len }),
        1 => (pick(), allocate(), far())
            .prop_map(|(handle, mode, offset)| Op::Allocate { handle, mode, offset, len: 9 }),
        5 => (pick(), offset(), pick(), offset(), 0u64..140_000).prop_map(|(from, from_offset, to, to_offset, len)| {
            Op::CopyRange { from, from_offset, to, to_offset, len }
        }),
        2 => (pick(), offset()).prop_map(|(handle, offset)| Op::SeekData { handle, offset }),
        2 => (pick(), offset()).prop_map(|(handle, offset)| Op::SeekHole { handle, offset }),
    ]
    .boxed();
    let attributes = prop_oneof![
        10 => (pick(), proptest::option::of(pick()), set(), uid())
            .prop_map(|(node, through, set, uid)| Op::SetAttributes { node, through, set, uid }),
        6 => (pick(), attribute(), prop_oneof![5 => 0usize..60, 1 => 900usize..1200], prop_oneof![
                Just(SetXattr::Any), Just(SetXattr::Create), Just(SetXattr::Replace),
            ]).prop_map(|(node, name, len, how)| Op::SetXattr { node, name, len, how }),
        1 => (pick(), attribute()).prop_map(|(node, name)| Op::GetXattr { node, name }),
        1 => (pick(), attribute()).prop_map(|(node, name)| Op::RemoveXattr { node, name }),
        1 => pick().prop_map(|node| Op::ReadLink { node }),
    ]
    .boxed();
    prop_oneof![
        40 => names,
        40 => files,
        12 => attributes,
        2 => Just(Op::Commit),
        2 => Just(Op::Remount),
        2 => Just(Op::Kill),
        1 => Just(Op::PowerLoss),
    ]
}
