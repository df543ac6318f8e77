//! Where the programs under test are.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The path of the program `name`: in `P2PFS_BIN_DIR`, else in the release build beside the test's own folder.
pub fn program(name: &str) -> PathBuf {
    let folder = match env::var_os("P2PFS_BIN_DIR") {
        Some(given) => PathBuf::from(given),
        None => target_folder().join("release"),
    };
    let path = folder.join(name);
    assert!(path.is_file(), "{} is not there: `cargo build --release`, or run scripts/test", path.display());
    path
}

/// `target/`: the test runs from `target/PROFILE/deps/`.
fn target_folder() -> PathBuf {
    let me = env::current_exe().unwrap();
    me.ancestors().nth(3).map(Path::to_owned).unwrap()
}
