//! Where the programs under test are.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The path of the program `name`: in `P2PFS_BIN_DIR`, else beside the test itself.
pub fn program(name: &str) -> PathBuf {
    let folder = match env::var_os("P2PFS_BIN_DIR") {
        Some(given) => PathBuf::from(given),
        None => profile_folder(),
    };
    let path = folder.join(name);
    assert!(path.is_file(), "{} is not there: `cargo build --profile quick`, or run scripts/test", path.display());
    path
}

/// `target/PROFILE/`: the test runs from `deps` in it.
fn profile_folder() -> PathBuf {
    let me = env::current_exe().unwrap();
    me.ancestors().nth(2).map(Path::to_owned).unwrap()
}
