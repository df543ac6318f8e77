//! The manual pages in `docs/man`, one for each command, are what clap makes of what can be typed.
//!
//! They lie there so that packages and whoever builds from source have them without a generator. After a change of the
//! command line: `P2PFS_WRITE_MANUAL=1 cargo nextest run --cargo-profile quick --workspace --bins manual`.

use std::{collections::BTreeMap, env, fs, path::Path};

use clap::CommandFactory;
use clap_mangen::Man;

use super::Cli;

type Pages = BTreeMap<String, String>;

/// Adds the pages of `command` and of those below it.
fn render(command: &clap::Command, pages: &mut Pages) {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        render(below, pages);
    }
    let page = Man::new(command.clone()).source("p2pfs").manual("p2pfs");
    let mut text = Vec::new();
    page.render(&mut text).unwrap();
    pages.insert(page.get_filename(), String::from_utf8(text).unwrap());
}

/// Those in `folder`.
fn written(folder: &Path) -> Pages {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let pages = entries.filter(|path| path.extension().is_some_and(|section| section == "1"));
    pages
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(path).unwrap()))
        .collect()
}

#[test]
fn the_manual_has_every_command_as_it_is() {
    let mut command = Cli::command();
    command.build();
    let mut pages = Pages::new();
    render(&command, &mut pages);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/man");
    if env::var_os("P2PFS_WRITE_MANUAL").is_some() {
        for name in written(&folder).keys() {
            fs::remove_file(folder.join(name)).unwrap();
        }
        for (name, text) in &pages {
            fs::write(folder.join(name), text).unwrap();
        }
    }
    let written = written(&folder);
    let differ = |name: &&String| written.get(*name) != pages.get(*name);
    let stale: Vec<_> = pages.keys().chain(written.keys()).filter(differ).collect();
    assert!(stale.is_empty(), "the command line has changed, {stale:?} in docs/man not: fs-mount/src/cli/manual.rs");
}
