//! What can be typed about who may use what.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Access {
    /// The file or folder
    pub(crate) path: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Allow {
    /// The file or folder
    pub(crate) path: PathBuf,
    /// Who, and what from now on: r reads, rw reads and writes, - neither
    #[arg(value_name = "USER:r|rw|-", value_parser = permission)]
    pub(crate) whom: Permission,
}

#[derive(Debug, Args)]
pub(crate) struct Chown {
    /// Whose it is from now on
    pub(crate) user: String,
    /// The file or folder
    pub(crate) path: PathBuf,
}

/// What one user may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Permission {
    pub(crate) user: String,
    pub(crate) read: bool,
    pub(crate) write: bool,
}

fn permission(text: &str) -> Result<Permission, String> {
    let wrong = "a member's name, a colon, and r, rw or -";
    let (user, may) = text.rsplit_once(':').ok_or(wrong)?;
    let (read, write) = match may {
        "r" => (true, false),
        "rw" | "w" => (true, true),
        "-" => (false, false),
        _ => return Err(wrong.to_owned()),
    };
    if user.is_empty() {
        return Err(wrong.to_owned());
    }
    Ok(Permission { user: user.to_owned(), read, write })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions() {
        let of = |text| permission(text).map(|p| (p.user, p.read, p.write));
        assert_eq!(of("bob:r"), Ok(("bob".to_owned(), true, false)));
        assert_eq!(of("bob:rw"), Ok(("bob".to_owned(), true, true)));
        assert_eq!(of("b~1f:-"), Ok(("b~1f".to_owned(), false, false)));
        for bad in ["bob", "bob:", ":r", "bob:x", "bob:rwx", ""] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
