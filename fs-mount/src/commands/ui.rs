//! `p2pfs ui`: has the daemon serve the page, and opens it.

use std::{
    env, fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    cli::Ui,
    control::{
        client::{self, unexpected},
        protocol::{Reply, Request},
        request::AboutPage,
    },
    daemon::alerting::find_program,
    failure::{Because, Outcome},
    home::Home,
    open_volume::not_mounted,
    output,
    select::choose,
};

/// What opens things in the program that a desktop has for them.
const OPENER: &str = "xdg-open";

pub(crate) fn run(home: &Home, args: &Ui) -> Outcome<()> {
    let dir = choose(home, &args.which, false)?.dir;
    let address = match client::ask(&dir, &Request::Page(AboutPage::Open { port: args.port }))? {
        Some(Reply::Page(address)) => address,
        Some(_) => return Err(unexpected()),
        None => return Err(not_mounted(&dir)),
    };
    let opener = find_program(OPENER, env::var_os("PATH").as_deref()).filter(|_| has_desktop());
    if let Some(opener) = opener.filter(|_| !args.no_browser) {
        let way = leading_to(dir.path(), &address).because(|| "opening the browser".to_owned())?;
        let opened =
            Command::new(opener).arg(&way).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if opened.is_ok_and(|status| status.success()) {
            output::line("opened in your browser")?;
            // Whoever opens it may not be able to read the file: browsers in a sandbox of their own (snap) don't see this folder.
            output::note("if nothing opened: `p2pfs ui --no-browser` prints the address");
            return Ok(());
        }
        output::note("no browser could be opened: open this address in one, within a minute");
    }
    output::line(&address)
}

fn has_desktop() -> bool {
    ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// A file of this user's alone that leads a browser to `address`. What programs are started with, everybody on this machine can
/// read, and whoever reads the address first gets in.
fn leading_to(folder: &Path, address: &str) -> std::io::Result<PathBuf> {
    let path = folder.join("open-page.html");
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    writeln!(
        file,
        "<!doctype html><meta charset=\"utf-8\"><meta name=\"referrer\" content=\"no-referrer\"><title>p2pfs</title>\
         <meta http-equiv=\"refresh\" content=\"0; url={address}\"><p><a href=\"{address}\">Open p2pfs</a>"
    )?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_for_this_user_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        for address in ["http://p2pfs-00.localhost:1/open#aa", "http://p2pfs-00.localhost:1/open#bb"] {
            let path = leading_to(dir.path(), address).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert!(fs::read_to_string(path).unwrap().contains(&format!("url={address}\"")));
        }
    }
}
