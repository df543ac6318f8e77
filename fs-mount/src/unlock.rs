//! What opens a volume's key file: a passphrase from a file or the terminal, or the key beside it.
//!
//! Invariants: a passphrase is never an argument, never in the environment, and is only asked for on a terminal.

use std::{
    fs,
    io::{self, IsTerminal, Read},
    path::Path,
};

use crypto::{Entropy, KeyFile, SymmetricKey, Unlock};
use zeroize::Zeroizing;

use crate::{
    asking::tell,
    failure::{Because, Failure, Outcome, plain},
    home::{VolumeDir, copy_of, mend, read_bounded, read_twice, write_twice},
    profile::{Profile, key_file_failure},
};

/// A passphrase, wiped when dropped.
pub(crate) type Passphrase = Zeroizing<String>;

/// Longer ones are a wrong file.
const PASSPHRASE_LIMIT: u64 = 4096;
/// Whoever mistypes a new one more often had better begin again; a terminal that is gone answers for ever.
const TRIES: u32 = 3;
/// The key that opens the key file, where there is no passphrase.
pub(crate) const KEY_NAME: &str = "unlock.key";

/// Reads the passphrase in `file`; `-` is standard input. A line break at its end doesn't count.
pub(crate) fn read_passphrase(file: &Path) -> Outcome<Passphrase> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(PASSPHRASE_LIMIT as usize + 1));
    let read = if file == Path::new("-") {
        io::stdin().lock().take(PASSPHRASE_LIMIT + 1).read_to_end(&mut bytes)
    } else {
        fs::File::open(file).and_then(|f| f.take(PASSPHRASE_LIMIT + 1).read_to_end(&mut bytes))
    };
    let shown = if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() };
    read.because(|| format!("reading the passphrase from {shown}"))?;
    if bytes.len() as u64 > PASSPHRASE_LIMIT {
        return Err(Failure::new(format!("{shown} is too long for a passphrase: at most {PASSPHRASE_LIMIT} bytes")));
    }
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Failure::new(format!("the passphrase in {shown} is not UTF-8 text")))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(Failure::new(format!("the passphrase in {shown} is empty")));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// Decides what opens a new volume's keys; a key of its own is kept in `dir`.
pub(crate) fn new_unlock(dir: &Path, passphrase: Option<Passphrase>, entropy: &dyn Entropy) -> Outcome<Unlock> {
    if let Some(passphrase) = passphrase {
        return Ok(Unlock::Passphrase(passphrase));
    }
    let key = SymmetricKey::generate(entropy);
    write_twice(&dir.join(KEY_NAME), key.expose())?;
    Ok(Unlock::Key(key))
}

/// The passphrase for a new volume: from the file, or typed twice; none with `no_passphrase`.
pub(crate) fn new_passphrase(file: Option<&Path>, no_passphrase: bool) -> Outcome<Option<Passphrase>> {
    if no_passphrase {
        return Ok(None);
    }
    let options = "--passphrase-file FILE or --no-passphrase";
    passphrase_for(file, "passphrase for the keys on this device: ", options).map(Some)
}

/// A new passphrase: from the file, or typed twice after `ask`. `options` are what can be given instead of typing.
pub(crate) fn passphrase_for(file: Option<&Path>, ask: &str, options: &str) -> Outcome<Passphrase> {
    if let Some(file) = file {
        return read_passphrase(file);
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::new(format!("a passphrase is needed and standard input is no terminal: give {options}")));
    }
    for _ in 0..TRIES {
        let first = prompt(ask)?;
        if first.is_empty() {
            tell("  it is empty: type one");
        } else if prompt("the same again: ")? == first {
            return Ok(first);
        } else {
            tell("  the two differ: type it anew");
        }
    }
    Err(Failure::new(format!(
        "no passphrase was typed twice the same, and nothing was done: try again, or give {options}"
    )))
}

/// Has the keys in `dir` opened by `passphrase` from now on, or by a key beside them.
///
/// At any moment what opens them is there: a key is on the disk, twice, before anything is sealed under it, and goes only
/// when nothing is sealed under it any more. The key file and its copy are replaced one after the other; until both are,
/// the file counts, and who reads it mends the copy.
pub(crate) fn relock(
    dir: &VolumeDir,
    profile: &Profile,
    passphrase: Option<Passphrase>,
    entropy: &dyn Entropy,
) -> Outcome<()> {
    // Two at a time would leave the key of one and the key file of the other.
    let folder = fs::File::open(dir.path()).because(|| format!("opening {}", dir.path().display()))?;
    folder.lock().because(|| format!("locking {}", dir.path().display()))?;
    let unlock = new_unlock(dir.path(), passphrase, entropy)?;
    profile.save_in(dir.path(), &unlock, entropy)?;
    if matches!(unlock, Unlock::Passphrase(_)) {
        let key = dir.path().join(KEY_NAME);
        for path in [copy_of(&key), key] {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(e).because(|| format!("removing {}", path.display()));
                }
                _ => {}
            }
        }
        folder.sync_all().because(|| "writing to the disk".to_owned())?;
    }
    Ok(())
}

/// What opens the keys of the volume in `dir`: the passphrase already at hand, the key beside them, or what the
/// user types.
pub(crate) fn existing_unlock(dir: &VolumeDir, at_hand: Option<&Passphrase>) -> Outcome<Unlock> {
    match unlock_unasked(dir, at_hand)? {
        Some(unlock) => Ok(unlock),
        None => ask_passphrase(dir).map(Unlock::Passphrase),
    }
}

/// Has the user type the passphrase, on a terminal only.
pub(crate) fn ask_passphrase(dir: &VolumeDir) -> Outcome<Passphrase> {
    if !io::stdin().is_terminal() {
        return Err(Failure::new(format!(
            "the keys of volume {} need a passphrase and standard input is no terminal: give --passphrase-file FILE",
            &dir.short_id()[..8]
        )));
    }
    prompt("passphrase: ")
}

/// The same without asking anybody; `None` when a passphrase is needed and none is at hand.
pub(crate) fn unlock_unasked(dir: &VolumeDir, at_hand: Option<&Passphrase>) -> Outcome<Option<Unlock>> {
    let keys = read_keys(dir)?;
    if KeyFile::needs_passphrase(&keys).map_err(|e| key_file_failure(dir.short_id(), e))? {
        return Ok(at_hand.map(|passphrase| Unlock::Passphrase(passphrase.clone())));
    }
    key_beside(&dir.path().join(KEY_NAME), &keys).map(Some)
}

/// The key in the file `path` or its copy, whichever opens `keys`. It has no mark of its own by which to tell damage.
fn key_beside(path: &Path, keys: &[u8]) -> Outcome<Unlock> {
    let read = |path: &Path| read_bounded(path).map(Zeroizing::new);
    let key =
        |bytes: &Zeroizing<Vec<u8>>| Some(Unlock::Key(SymmetricKey::from_bytes(bytes.as_slice().try_into().ok()?)));
    let (file, copy) = (read(path), read(&copy_of(path)));
    let opening = |bytes: &io::Result<Zeroizing<Vec<u8>>>| {
        let unlock = key(bytes.as_ref().ok()?)?;
        KeyFile::open(keys, &unlock).is_ok().then_some(unlock)
    };
    let same = file.as_ref().ok().zip(copy.as_ref().ok()).is_some_and(|(file, copy)| file == copy);
    if !same {
        if let (Some(unlock), Ok(bytes)) = (opening(&file), &file) {
            mend(&copy_of(path), bytes);
            return Ok(unlock);
        }
        if let (Some(unlock), Ok(bytes)) = (opening(&copy), &copy) {
            mend(path, bytes);
            return Ok(unlock);
        }
    }
    let bytes = file.because(|| format!("reading {}", path.display()))?;
    key(&bytes).ok_or_else(|| Failure::new(format!("{} is damaged", path.display())))
}

/// The sealed key file.
pub(crate) fn read_keys(dir: &VolumeDir) -> Outcome<Vec<u8>> {
    let path = dir.path().join("keys");
    let whole = |keys: &[u8]| KeyFile::needs_passphrase(keys).is_ok();
    read_twice(&path, whole).map_err(|e| Failure::new(format!("reading {}: {}", path.display(), plain(&e))))
}

/// What the user types at the terminal after `text`; it isn't shown.
pub(crate) fn prompt(text: &str) -> Outcome<Passphrase> {
    rpassword::prompt_password(text).map(Zeroizing::new).because(|| "reading what is typed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(content: &[u8], expected: Option<&str>) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p");
        fs::write(&file, content).unwrap();
        assert_eq!(read_passphrase(&file).ok().as_deref().map(String::as_str), expected);
    }

    #[test]
    fn passphrases_from_files() {
        check(b"horse\n", Some("horse"));
        check(b"horse\r\n", Some("horse"));
        check(b" horse battery ", Some(" horse battery "));
        check(b"horse\n\n", Some("horse\n"));
        check(b"", None);
        check(b"\n", None);
        check(b"\xff\xfe", None);
        check(&[b'a'; 4096], Some(&"a".repeat(4096)));
        check(&[b'a'; 4097], None);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read_passphrase(Path::new("/nonexistent/p")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/p"), "{error}");
    }
}
