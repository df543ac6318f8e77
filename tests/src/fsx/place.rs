//! Where in a file a call works: mostly at the edges of what is below.

use crate::random::Random;

/// Edges of the kernel's pages and of contents kept in the store's rows; of sealed pages; of blocks; of lists of blocks.
const EDGES: [u64; 4] = [4 << 10, 8 << 10, 64 << 10, 8 << 20];

/// A place up to `limit`.
pub(super) fn offset(random: &mut Random, limit: u64) -> u64 {
    let edge = EDGES[random.below(EDGES.len() as u64) as usize];
    let place = match random.below(4) {
        0 => random.below(limit + 1),
        1 => 0,
        _ => random.below(limit / edge + 1) * edge,
    };
    near(random, place).min(limit)
}

/// A length from one byte to `limit`, which is at least one.
pub(super) fn length(random: &mut Random, limit: u64) -> u64 {
    let edge = EDGES[random.below(3) as usize];
    let length = match random.below(4) {
        0 => 1 + random.below(64),
        1 => 1 + random.below(limit.min(3 * edge)),
        2 => near(random, edge),
        _ => near(random, edge * 2),
    };
    length.clamp(1, limit)
}

/// Exactly there, or a few bytes before or behind.
fn near(random: &mut Random, place: u64) -> u64 {
    match random.below(2) {
        0 => place,
        _ => (place + random.below(7)).saturating_sub(3),
    }
}
