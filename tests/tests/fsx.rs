//! Files under random calls hold what they must: alone, over ends of the daemon, and with another peer writing.
//!
//! `P2PFS_TEST_STEPS` is how many steps each test makes; a failing one prints the seed for `P2PFS_TEST_SEED`.

use std::{fs::File, thread, time::Instant};

use p2pfs_tests::{
    fsx::{Exerciser, Settings},
    group::Group,
    peer::Peer,
    random::Random,
    setting,
};

/// In one file or several, none longer than a few blocks.
const BLOCKS: Settings = Settings { files: 2, descriptors: 3, limit: 300_000, killed: false };
/// Around the lengths of contents that are kept in the store's rows, and of a first page.
const SMALL: Settings = Settings { files: 2, descriptors: 2, limit: 20_000, killed: false };
/// Long enough for a list of lists of blocks.
const LARGE: Settings = Settings { files: 1, descriptors: 2, limit: 20 << 20, killed: false };

/// How often a daemon ends, or another peer has its turn.
const ROUNDS: u64 = 10;

fn steps(default: u64) -> u64 {
    setting("P2PFS_TEST_STEPS", default)
}

/// Works on one mount from as many threads as there are settings, each on files of its own.
fn exercise(count: u64, all: &[Settings]) {
    let peer = Peer::alone();
    let mut random = Random::seeded();
    let start = Instant::now();
    thread::scope(|scope| {
        for (number, settings) in all.iter().enumerate() {
            let folder = peer.at(number.to_string());
            std::fs::create_dir(&folder).unwrap();
            let random = Random::new(random.draw());
            scope.spawn(move || {
                let mut exerciser = Exerciser::new(&folder, random, *settings);
                exerciser.run(count);
                exerciser.close();
                exerciser.open();
            });
        }
    });
    let total = count * all.len() as u64;
    println!("{total} steps, {:.0}/s", total as f64 / start.elapsed().as_secs_f64());
}

#[test]
fn around_blocks() {
    exercise(steps(10_000), &[BLOCKS, BLOCKS]);
}

#[test]
fn around_the_smallest_sizes() {
    exercise(steps(10_000), &[SMALL, SMALL]);
}

#[test]
fn in_a_large_file() {
    exercise(steps(3_000), &[LARGE]);
}

#[test]
fn with_remounts_in_between() {
    let mut peer = Peer::alone();
    let mut exerciser = Exerciser::new(peer.root(), Random::seeded(), BLOCKS);
    for _ in 0..ROUNDS {
        exerciser.run(steps(3_000) / ROUNDS);
        exerciser.close();
        peer.unmount();
        peer.mount();
        exerciser.open();
    }
}

#[test]
fn killed_after_a_sync() {
    let mut peer = Peer::alone();
    let mut exerciser = Exerciser::new(peer.root(), Random::seeded(), Settings { killed: true, ..BLOCKS });
    for _ in 0..ROUNDS {
        exerciser.run(steps(2_000) / ROUNDS);
        exerciser.sync();
        peer.kill9();
        exerciser.abandon();
        peer.mount();
        exerciser.recover();
    }
}

#[test]
fn killed_at_any_step() {
    let mut peer = Peer::alone();
    let mut random = Random::seeded();
    let settings = [BLOCKS, SMALL].map(|settings| Settings { killed: true, ..settings });
    for (number, settings) in settings.into_iter().enumerate() {
        let folder = peer.at(number.to_string());
        std::fs::create_dir(&folder).unwrap();
        let mut exerciser = Exerciser::new(&folder, Random::new(random.draw()), settings);
        for _ in 0..ROUNDS {
            let most = steps(2_000) / ROUNDS;
            exerciser.run(1 + random.below(most));
            peer.kill9();
            exerciser.abandon();
            peer.mount();
            exerciser.recover();
        }
        exerciser.close();
    }
}

/// The peers write in turn. Whoever isn't, has the files open for reading, and mapped.
#[test]
fn with_another_peer_in_turn() {
    let group = Group::two();
    let mut exerciser = Exerciser::new(group.alice().root(), Random::seeded(), BLOCKS);
    for round in 0..ROUNDS {
        let (here, there) = match round % 2 {
            0 => (group.alice(), group.bob()),
            _ => (group.bob(), group.alice()),
        };
        exerciser.move_to(here.root());
        p2pfs_tests::patience::eventually("the files are there", || {
            File::open(there.at("fsx-1")).map_err(|e| e.to_string())
        });
        let readers = ["fsx-0", "fsx-1"].map(|name| File::open(there.at(name)).unwrap());
        exerciser.run(steps(2_000) / ROUNDS);
        exerciser.close();
        exerciser.followed_by(&readers);
    }
    group.in_step();
}
