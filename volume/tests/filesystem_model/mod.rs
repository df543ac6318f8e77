//! One volume against a naive POSIX tree: any calls, with several open handles, restarts, deaths and power losses in
//! between, give what the tree gives, errors included.
//!
//! A normal run tries 3000 random lives; `PROPTEST_CASES=10000` tries that many.

mod op;
mod player;
mod tree;

use std::fmt;

use op::{How, Make, Op, Set, op};
use p2pfs_volume::SetXattr;
use player::Player;
use proptest::prelude::*;

/// Calls in a row.
#[derive(Clone)]
struct Life(Vec<Op>);

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("vec![\n")?;
        for op in &self.0 {
            writeln!(f, "    Op::{op:?},")?;
        }
        f.write_str("]")
    }
}

fn live(ops: &[Op]) {
    let mut player = Player::new();
    for op in ops {
        player.play(op);
    }
    player.end();
}

/// A life is short: more of them than usual fit into a test's time.
fn config() -> ProptestConfig {
    let wanted = ProptestConfig { max_shrink_iters: 4000, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() { wanted } else { ProptestConfig { cases: 3000, ..wanted } }
}

#[test]
fn an_attribute_that_was_removed_is_gone_after_a_restart_too() {
    live(&[
        Op::Make { dir: 0, name: "a", what: Make::File, mode: 0o644, uid: 0 },
        Op::SetXattr { node: 1, name: "user.b", len: 0, how: SetXattr::Any },
        Op::RemoveXattr { node: 1, name: "user.b" },
        Op::Kill,
    ]);
}

#[test]
fn a_time_set_on_an_open_file_without_a_name_shows() {
    live(&[
        Op::Create { dir: 0, name: "a", how: How::Write, exclusive: true },
        Op::Unlink { dir: 0, name: "a" },
        Op::Write { handle: 0, offset: 0, fill: 1, len: 3, uid: 0 },
        Op::SetAttributes { node: 0, through: None, set: Set { mtime: Some(5), ..Set::default() }, uid: 0 },
        Op::Write { handle: 0, offset: 0, fill: 2, len: 3, uid: 0 },
    ]);
}

#[test]
fn a_target_with_a_zero_byte_is_refused() {
    live(&[Op::Make { dir: 0, name: "a", what: Make::Symlink { target: "x\0" }, mode: 0o777, uid: 0 }]);
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_volume_is_an_ordinary_file_tree(life in proptest::collection::vec(op(), 1..80).prop_map(Life)) {
        live(&life.0);
    }
}
