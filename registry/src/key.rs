//! The registry's own key: its name to clients, kept across restarts.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crypto::{OsEntropy, SigningKeys};
use thiserror::Error;

/// Why there is no key.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The system refuses.
    #[error("{}: {}: choose another folder with --state, or make this one usable", path.display(), error.kind())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file is not a key.
    #[error("{0}: not a registry key (32 bytes); restore it, or remove it to get a new identity")]
    Damaged(PathBuf),
    /// Others may read the key.
    #[error("{0}: others may read this key; make it private (chmod 600)")]
    Exposed(PathBuf),
}

/// Reads the key in `folder`, or makes one when there is none.
pub fn load_or_create(folder: &Path) -> Result<SigningKeys, KeyError> {
    let path = folder.join("key");
    match fs::read(&path) {
        Ok(bytes) => {
            let mode = fs::metadata(&path).map_err(|error| at(&path, error))?.permissions().mode();
            if mode & 0o077 != 0 {
                return Err(KeyError::Exposed(path));
            }
            let seed: [u8; 32] = bytes.try_into().map_err(|_| KeyError::Damaged(path))?;
            Ok(SigningKeys::from_seed(seed))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(folder, &path),
        Err(error) => Err(at(&path, error)),
    }
}

/// Writes a new key under another name first: a crash leaves no half key.
fn create(folder: &Path, path: &Path) -> Result<SigningKeys, KeyError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| at(folder, error))?;
    let keys = SigningKeys::generate(&OsEntropy);
    let fresh = folder.join("key.new");
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(&*keys.seed())?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        fs::File::open(folder)?.sync_all()
    };
    write().map_err(|error| at(path, error))?;
    Ok(keys)
}

fn at(path: &Path, error: io::Error) -> KeyError {
    KeyError::Io { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_stays_and_is_private() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("state");
        let first = load_or_create(&folder).unwrap();
        assert_eq!(load_or_create(&folder).unwrap().public(), first.public());
        let mode = fs::metadata(folder.join("key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_or_exposed_key_is_not_replaced() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("key");
        fs::write(&path, b"short").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(load_or_create(home.path()), Err(KeyError::Damaged(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(load_or_create(home.path()), Err(KeyError::Exposed(_))));
        assert_eq!(fs::read(&path).unwrap(), b"short");
    }
}
