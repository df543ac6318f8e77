use crypto::{SeededEntropy, SymmetricKey};

use super::*;
use crate::{
    content::{KeyRing, MemoryBlocks},
    memory_store::MemoryStore,
    version::Dot,
};

const PEER: PeerNo = PeerNo(1);

/// What a device has, and what it lacks: contents of one leaf each unless told.
struct Device {
    fetch: Fetch,
    blocks: Blocks,
    store: SealedStore,
}

fn blocks() -> Blocks {
    Blocks::new(Arc::new(MemoryBlocks::new()), Arc::new(SeededEntropy::new(1)))
}

fn device() -> Device {
    let secret = SymmetricKey::from_bytes([7; 32]);
    let store = SealedStore::new(Arc::new(MemoryStore::new()), &secret, Arc::new(SeededEntropy::new(2)));
    let blocks = blocks();
    Device { fetch: Fetch::new(blocks.clone(), store.clone()), blocks, store }
}

fn at(branch: u32, seq: u64) -> ValueRef {
    ValueRef { dot: Dot { branch: BranchNo(branch), seq }, index: 0 }
}

fn nobodys(number: u64) -> BlockHash {
    BlockHash::of_block(&number.to_le_bytes())
}

impl Device {
    fn want(&self, contents: impl Iterator<Item = (ValueRef, BlockHash, u64)>) {
        let mut batch = Batch::new();
        for (at, root, blocks) in contents {
            self.store.put(&mut batch, Space::Wanted, at.key(), &crate::commit::encode(&(root, blocks)));
        }
        self.store.apply(batch).unwrap();
        self.fetch.look_again();
    }

    /// Asks a peer that has nothing but `found` until there is nothing more to ask it for; how often it was asked.
    fn ask(&self, peer: PeerNo, found: &BTreeMap<BlockHash, Vec<u8>>) -> usize {
        let mut asked = 0;
        loop {
            let hashes = self.fetch.claim(peer, 32).unwrap();
            if hashes.is_empty() {
                return asked;
            }
            asked += hashes.len();
            for hash in hashes {
                match found.get(&hash) {
                    Some(bytes) => {
                        let kind = BlockKind::of(&hash, bytes).unwrap();
                        self.fetch.arrived(&[(hash, bytes, kind)]).unwrap();
                    }
                    None => self.fetch.failed(peer, &hash),
                }
            }
            self.fetch.go_on().unwrap();
        }
    }
}

fn block(text: &[u8]) -> (BlockHash, Vec<u8>) {
    let blocks = blocks();
    let hash = blocks.seal_put(&KeyRing::new(SymmetricKey::from_bytes([1; 32])), text).unwrap();
    (hash, blocks.get_checked(&hash).unwrap().unwrap())
}

#[test]
fn contents_that_can_never_be_whole_stand_in_nobodys_way() {
    let device = device();
    device.fetch.add_peer(PEER);
    let (leaf, bytes) = block(b"no list");
    device.blocks.put_received(&leaf, &bytes).unwrap();
    device.want((1..200).map(|seq| (at(0, seq), leaf, 2)));
    let (other, bytes) = block(b"another's");
    device.want([(at(1, 1), other, 1)].into_iter());
    assert_eq!(device.ask(PEER, &BTreeMap::from([(other, bytes)])), 1);
    assert!(device.fetch.is_complete());
}

#[test]
fn any_number_of_contents_that_nobody_has_stand_in_nobodys_way() {
    let device = device();
    device.fetch.add_peer(PEER);
    let many = PARKED as u64 + 100;
    device.want((1..=many).map(|seq| (at(0, seq), nobodys(seq), 1)));
    let (one, one_bytes) = block(b"one");
    let (two, two_bytes) = block(b"two");
    device.want([(at(1, 1), one, 1)].into_iter());
    let mut found = BTreeMap::from([(one, one_bytes), (two, two_bytes)]);
    assert_eq!(device.ask(PEER, &found), many as usize + 1);
    assert!(!device.fetch.is_complete());
    // What comes later is looked for, and nothing else once more.
    device.want([(at(0, many + 1), two, 1)].into_iter());
    assert_eq!(device.ask(PEER, &found), 1);
    assert!(device.fetch.missing().1 <= PARKED as u64);
    // Another peer may have what was set aside.
    let (three, three_bytes) = block(b"three");
    device.want([(at(0, many + 2), three, 1)].into_iter());
    device.ask(PEER, &found);
    found.insert(three, three_bytes);
    let second = PeerNo(2);
    device.fetch.add_peer(second);
    let mut asked = 0;
    loop {
        // What the second hasn't got either, the first may have got meanwhile.
        let of_both = [device.ask(second, &found), device.ask(PEER, &BTreeMap::new())];
        asked += of_both[0];
        if of_both == [0, 0] {
            break;
        }
    }
    assert_eq!(asked, many as usize + 1);
    assert!(!device.fetch.is_complete());
    let missing = device.store.scan(Space::Wanted, &[], &[], usize::MAX).unwrap().len();
    assert_eq!(missing, many as usize);
}

#[test]
fn a_program_that_asks_again_and_again_lengthens_no_queue() {
    let device = device();
    let hashes = [nobodys(1), nobodys(2)];
    device.want([(at(0, 1), hashes[0], 1)].into_iter());
    let poll = || {
        for _ in 0..50 {
            assert!(!device.fetch.wait(&hashes, Duration::ZERO, || Duration::ZERO, || ()));
        }
    };
    let queued = || {
        let state = device.fetch.state.lock();
        (state.urgent.len(), state.queue.len())
    };
    // With nobody connected, with one who lacks it while another is to be asked, and with nobody who has it.
    poll();
    assert!(queued().0 <= 2, "{:?}", queued());
    let [first, second] = [PEER, PeerNo(2)];
    device.fetch.add_peer(first);
    device.fetch.add_peer(second);
    for _ in 0..50 {
        poll();
        device.ask(first, &BTreeMap::new());
    }
    let (urgent, queue) = queued();
    assert!(urgent <= 2 && queue <= 2, "{:?}", queued());
    device.ask(second, &BTreeMap::new());
    poll();
    assert_eq!(queued(), (0, 0));
    // Whoever connects then is asked, once.
    let (block, bytes) = block(b"found");
    device.want([(at(0, 2), block, 1)].into_iter());
    device.fetch.add_peer(PeerNo(3));
    assert!(device.ask(PeerNo(3), &BTreeMap::from([(block, bytes)])) >= 2);
    assert!(device.blocks.store().contains(&block).unwrap());
}
