//! A machine whose date is wrong, and jumps: a small library (`clock.c`) is loaded into its programs.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::PathBuf,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{scratch::Scratch, tool::run};

/// The clock of one machine.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    control: PathBuf,
}

impl Clock {
    /// One that is right so far.
    pub fn new(scratch: &Scratch, name: &str) -> Self {
        let (library, control) = (scratch.path().join("clock.so"), scratch.path().join(format!("{name}.clock")));
        if !library.exists() {
            let source = scratch.path().join("clock.c");
            fs::write(&source, include_str!("clock.c")).unwrap();
            let to = library.to_str().unwrap();
            run("cc", ["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", to, source.to_str().unwrap()]);
        }
        fs::write(&control, [0; 4096]).unwrap();
        Self { library, control }
    }

    /// Has `command` run with this clock.
    pub fn arm(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("CLOCK_CONTROL", &self.control);
    }

    /// Sets it so many seconds before or after the right time, also for programs that run.
    pub fn set(&self, seconds: i64) {
        File::options().write(true).open(&self.control).unwrap().write_all_at(&seconds.to_le_bytes(), 0).unwrap();
    }

    /// What it shows, in seconds since 1970.
    pub fn shows(&self) -> i64 {
        let mut bytes = [0; 8];
        File::open(&self.control).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        i64::try_from(now).unwrap() + i64::from_le_bytes(bytes)
    }
}
