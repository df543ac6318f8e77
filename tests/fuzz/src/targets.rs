//! The table of targets.

mod arguments;
mod local;
mod names;
mod network;
mod replicated;
mod store;

/// One decoder, or several that read the same bytes.
pub(crate) struct Target {
    /// As `scripts/fuzz` and the corpora call it.
    pub(crate) name: &'static str,
    /// Decodes one input; panics where something is wrong.
    pub(crate) run: fn(&[u8]),
    /// Real bytes made by the product.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
    /// How much memory one input may take, beside 64 bytes for each of its own.
    pub(crate) memory: usize,
}

const MIB: usize = 1 << 20;
/// A list whose length is stated is begun with 1 MiB at most, whatever was stated (serde's own bound), and lists stand in
/// one another.
const LISTS: usize = 4 * MIB;

/// Declares a target: its name is that of its functions' module.
macro_rules! target {
    ($file:ident::$name:ident, $memory:expr) => {
        Target { name: stringify!($name), run: $file::$name::run, seeds: $file::$name::seeds, memory: $memory }
    };
}

/// Every target there is.
pub(crate) const TARGETS: &[Target] = &[
    target!(replicated::commit, LISTS),
    target!(replicated::change, LISTS),
    target!(replicated::message, LISTS),
    target!(replicated::letter, 16 * MIB),
    target!(replicated::body, LISTS),
    target!(replicated::block, 4 * MIB),
    target!(replicated::proof, LISTS),
    target!(replicated::peer, 8 * MIB),
    target!(network::handshake, LISTS),
    target!(network::frame, MIB),
    target!(network::registry, LISTS),
    target!(network::send, LISTS),
    target!(network::ticket, LISTS),
    target!(network::certificate, MIB / 4),
    target!(local::key_file, MIB / 4),
    target!(local::row, LISTS),
    target!(local::pack, 8 * MIB),
    target!(local::archive, 8 * MIB),
    target!(local::draft, 64 * MIB),
    target!(store::store, 8 * MIB),
    target!(names::name, 16 * MIB),
    target!(names::acl, 16 * MIB),
    target!(arguments::control, MIB / 4),
    target!(arguments::argument, MIB / 4),
];
