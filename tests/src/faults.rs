//! Letting one call of a daemon fail, or its last one be any.
//!
//! A small library is loaded into the daemon (`faults.c`); it counts the calls that change files below one folder.
//! What it doesn't see are appends to packs, which don't go through the C library.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{scratch::Scratch, tool::run};

/// Faults in the daemons that are started with [`Faults::arm`]'s environment.
#[derive(Debug)]
pub struct Faults {
    library: PathBuf,
    control: PathBuf,
    folder: PathBuf,
}

impl Faults {
    /// For calls on files below `folder`.
    pub fn new(scratch: &Scratch, folder: &Path) -> Self {
        let (library, control) = (scratch.path().join("faults.so"), scratch.path().join("faults"));
        if !library.exists() {
            let source = scratch.path().join("faults.c");
            fs::write(&source, include_str!("faults.c")).unwrap();
            let to = library.to_str().unwrap();
            run("cc", ["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", to, source.to_str().unwrap()]);
        }
        let faults = Self { library, control, folder: folder.to_owned() };
        fs::write(&faults.control, [0; 4096]).unwrap();
        faults
    }

    /// Has `command` run with faults.
    pub fn arm(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("FAULT_CONTROL", &self.control);
        command.env("FAULT_FOLDER", &self.folder);
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        let mut bytes = [0; 8];
        File::open(&self.control).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        u64::from_le_bytes(bytes)
    }

    fn set(&self, at: u64, errno: i32, lasting: bool) {
        let words = [0, at, errno.unsigned_abs().into(), lasting.into()];
        let bytes: Vec<u8> = words.iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
        File::options().write(true).open(&self.control).unwrap().write_all_at(&bytes, 0).unwrap();
    }

    /// The daemon dies just before the call `at`, counted from now on, from 1.
    pub fn kill_at(&self, at: u64) {
        self.set(at, 0, false);
    }

    /// The call `at` fails, and with `lasting` all after it, until [`Self::heal`].
    pub fn fail_at(&self, at: u64, errno: i32, lasting: bool) {
        self.set(at, errno, lasting);
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        self.set(0, 0, false);
    }
}
