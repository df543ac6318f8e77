//! What a folder may show after a crash: the states that a program brought it through, in order.
//!
//! One program works in the folder. Before each call that changes something it notes the state that the call leads to,
//! after each call that makes things durable it notes that. A crash at some moment may leave any state that was begun
//! by then and is no older than the last one that was durable by then: whole, never a mixture, never an older one.

use std::{collections::BTreeMap, fmt::Write as _, fs, io, path::Path, sync::Arc};

/// What is under a name.
#[derive(Clone, PartialEq, Eq)]
pub enum Entry {
    /// A directory.
    Folder,
    /// A file with this content.
    File(Arc<Vec<u8>>),
}

/// Everything below a folder, by path.
pub type State = BTreeMap<String, Entry>;

/// The states, oldest first, each with the moment when it was begun and when it was durable.
#[derive(Default)]
pub struct History {
    states: Vec<(State, usize, Option<usize>)>,
}

impl History {
    /// Begins with what is there already and durable.
    pub fn new(state: State) -> Self {
        Self { states: vec![(state, 0, Some(0))] }
    }

    /// The newest state.
    pub fn now(&self) -> &State {
        &self.states[self.states.len() - 1].0
    }

    /// How many states there were.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether nothing was noted yet.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Notes that a call begins at `moment` that changes the newest state so.
    pub fn begin(&mut self, moment: usize, change: impl FnOnce(&mut State)) {
        let mut state = self.now().clone();
        change(&mut state);
        self.states.push((state, moment, None));
    }

    /// Notes that everything up to now is durable since `moment`.
    pub fn durable(&mut self, moment: usize) {
        if let Some((_, _, durable)) = self.states.last_mut() {
            durable.get_or_insert(moment);
        }
    }

    /// How many states are known to be durable after all at `moment`.
    pub fn durable_at(&self, moment: usize) -> usize {
        self.states.iter().rposition(|(_, _, durable)| durable.is_some_and(|at| at <= moment)).unwrap_or(0)
    }

    /// Which state `found` is, of those that a crash at `moment` may leave.
    ///
    /// # Errors
    /// None of them; says how it differs from the one that it is nearest to.
    pub fn place(&self, moment: usize, found: &State) -> Result<usize, String> {
        let oldest = self.durable_at(moment);
        let newest = self.states.iter().rposition(|(_, begun, _)| *begun <= moment).unwrap_or(0);
        if let Some(at) = (oldest..=newest).rev().find(|at| self.states[*at].0 == *found) {
            return Ok(at);
        }
        let nearest = (oldest..=newest).min_by_key(|at| differences(&self.states[*at].0, found).len()).unwrap_or(0);
        let mut text = format!("none of the states {oldest} to {newest}; nearest is {nearest}:");
        for difference in differences(&self.states[nearest].0, found) {
            let _ = write!(text, "\n  {difference}");
        }
        if let Some(older) = self.states[..oldest].iter().rposition(|(state, ..)| state == found) {
            let _ = write!(text, "\n  (it is state {older}, which is too old)");
        }
        Err(text)
    }
}

fn differences(expected: &State, found: &State) -> Vec<String> {
    let what = |entry: Option<&Entry>| match entry {
        None => "nothing".to_owned(),
        Some(Entry::Folder) => "a folder".to_owned(),
        Some(Entry::File(bytes)) => format!("{} bytes", bytes.len()),
    };
    let paths = expected.keys().chain(found.keys().filter(|path| !expected.contains_key(*path)));
    let different = paths.filter(|path| expected.get(*path) != found.get(*path));
    different.map(|path| format!("{path}: {}, not {}", what(found.get(path)), what(expected.get(path)))).collect()
}

/// Everything below `folder` as it is now.
///
/// # Errors
/// Something can't be read; names it.
pub fn look(folder: &Path) -> io::Result<State> {
    let mut state = State::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", at.display()));
        for entry in fs::read_dir(&at).map_err(named)? {
            let path = entry.map_err(named)?.path();
            let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            if fs::symlink_metadata(&path).map_err(named)?.is_dir() {
                state.insert(name, Entry::Folder);
                folders.push(path);
            } else {
                state.insert(name, Entry::File(Arc::new(fs::read(&path).map_err(named)?)));
            }
        }
    }
    Ok(state)
}
