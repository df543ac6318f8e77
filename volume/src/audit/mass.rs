//! What a device does to very many files: encrypts, removes or renames them.
//!
//! Nothing here knows how fast is too fast. What is counted is how many files that others may need are ruined, at any pace,
//! and for removals and new names, at which pace programs don't do that for innocent reasons: a tree is removed with its
//! directories, and what cleans up does so in one go.

use std::collections::{HashMap, HashSet, VecDeque};

use crypto::DeviceId;

use super::{Finding, Kind, Sure};
use crate::node::Ino;

/// For how long what a device did is counted together, in seconds.
const WINDOW: i64 = 24 * 3600;
/// The same of what goes on slowly.
const SLOW_WINDOW: i64 = 3600;
/// Younger files are nobody's loss: programs make and remove them all the time. In seconds.
const YOUNG: i64 = 30;
/// Slow is no more than this many in each second in which there are any.
const SLOW: usize = 20;
/// Directories in which files are removed at once by what removes trees: those on one path, with room.
const ON_ONE_PATH: usize = 24;
/// After so many seconds without another, what removed files is done.
const DONE_AFTER: i64 = 15;
/// Devices and directories that are counted at once.
const DEVICES: usize = 256;
const DIRECTORIES: usize = 16_384;
/// Deeds of one device that are remembered.
const DEEDS: usize = 65_536;

/// What was done to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// What was in it is noise or nothing now.
    Ruined,
    /// It is gone.
    Removed,
    /// It was made, and is noise.
    MadeOfNoise,
    /// It has another name in the same directory.
    Renamed {
        /// Its old name.
        from: Vec<u8>,
        /// The new one.
        to: Vec<u8>,
    },
    /// It is gone, and was something else than noise.
    Lost,
    /// A directory is gone.
    DirectoryRemoved,
}

impl Deed {
    /// The name of one that is only so if contents say so.
    pub(crate) fn sampled(&self) -> Option<&'static str> {
        match self {
            Deed::Ruined => Some("ruined"),
            Deed::Lost => Some("lost"),
            Deed::MadeOfNoise => Some("noise"),
            _ => None,
        }
    }
}

/// How long before the first that was counted an answer begins, in seconds: a file may have been emptied, and published as
/// such, before it was written anew.
const BEFORE: i64 = 5;

/// Something that a device did to a file.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    /// What.
    pub deed: Deed,
    /// Which file.
    pub ino: Ino,
    /// The directory it is or was in.
    pub directory: Ino,
    /// For how long the file was as it was before, in seconds.
    pub age: i64,
    /// Somebody else had written it.
    pub foreign: bool,
    /// When, in seconds, by its maker's clock.
    pub time: i64,
    /// For how many such deeds it stands: when there are too many to look at each.
    pub weight: u32,
}

/// What somebody should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mass {
    /// What, and how many.
    pub text: String,
    pub sure: Sure,
    /// Since when, in seconds.
    pub since: i64,
    /// A file that it was done to, as an example.
    pub example: Ino,
}

/// A file that was removed.
struct Removed {
    time: i64,
    ino: Ino,
    directory: Ino,
    foreign: bool,
}

#[derive(Default)]
struct Directory {
    removed: u32,
    /// Of these, files that others had written.
    foreign: u32,
    /// Files that went and had been something else than noise.
    ordered: u32,
    made_of_noise: u32,
}

/// What one device did lately.
#[derive(Default)]
struct Ledger {
    /// By time: what counts, and the file.
    ruined: VecDeque<(i64, Ino, u32)>,
    known: HashSet<Ino>,
    removed: VecDeque<Removed>,
    /// Files made of noise: when, in which directory, how many.
    noise: VecDeque<(i64, Ino, u32)>,
    renamed: VecDeque<(i64, Ino)>,
    endings: HashMap<Vec<u8>, VecDeque<(i64, Ino)>>,
    directories: HashMap<Ino, Directory>,
    /// Removed files whose directories are still there, and of those the ones that others had written: the sums over these.
    scattered: u32,
    foreign: u32,
    last_removal: i64,
    /// The last that was told of each, doubled before it is told again.
    told: HashMap<&'static str, usize>,
}

/// Counts for each device.
#[derive(Default)]
pub(crate) struct Ledgers(HashMap<DeviceId, Ledger>);

/// How many are too many of something that concerns `percent` of all files.
fn share(files: u64, percent: u64, least: usize, most: usize) -> usize {
    usize::try_from(files.saturating_mul(percent) / 100).unwrap_or(usize::MAX).clamp(least, most)
}

fn forget_before(list: &mut VecDeque<(i64, Ino)>, time: i64) {
    while list.len() > DEEDS || list.front().is_some_and(|(at, _)| *at < time) {
        list.pop_front();
    }
}

/// How slowly something went on: so many, and whether never many in one second.
fn is_slow(times: impl ExactSizeIterator<Item = i64>) -> bool {
    let count = times.len();
    let seconds: HashSet<i64> = times.collect();
    count <= SLOW * seconds.len() && seconds.len() >= count.min(64) / 2
}

/// The ending that was added, if it is none that people give to what they keep.
fn added_ending(from: &[u8], to: &[u8]) -> Option<Vec<u8>> {
    let added = to.strip_prefix(from).filter(|added| !added.is_empty())?;
    let is_number = added.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.' || *byte == b'~');
    let is_usual = [b".bak".as_slice(), b".old", b".orig", b".save"].contains(&added);
    // (Mail readers note there what was read.)
    (!is_number && !is_usual && !added.starts_with(b":2,")).then(|| added.to_vec())
}

/// The ending that came in the place of another.
fn other_ending(from: &[u8], to: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let cut = |name: &[u8]| name.iter().rposition(|byte| *byte == b'.').filter(|at| *at > 0);
    let (old, new) = (cut(from)?, cut(to)?);
    (from[..old] == to[..new] && from[old..] != to[new..] && !to.starts_with(from))
        .then(|| (from[old..].to_vec(), to[new..].to_vec()))
}

impl Ledgers {
    /// Takes in what a device did in a volume of so many files. Returns what somebody should look at.
    pub(crate) fn take(&mut self, device: DeviceId, files: u64, done: &[Done]) -> Vec<Mass> {
        if self.0.len() >= DEVICES && !self.0.contains_key(&device) {
            let idle = self.0.iter().min_by_key(|(_, ledger)| ledger.last()).map(|(device, _)| *device);
            idle.and_then(|idle| self.0.remove(&idle));
        }
        let ledger = self.0.entry(device).or_default();
        done.iter().for_each(|done| ledger.add(done));
        let now = done.iter().map(|done| done.time).max().unwrap_or_else(|| ledger.last());
        ledger.judge(files, now, false)
    }

    /// What is to be looked at once a device did nothing more for a moment; `now` in seconds.
    pub(crate) fn rest(&mut self, files: u64, now: i64) -> Vec<(DeviceId, Mass)> {
        let each = self.0.iter_mut().filter(|(_, ledger)| now - ledger.last_removal >= DONE_AFTER);
        each.flat_map(|(device, ledger)| ledger.judge(files, now, true).into_iter().map(|mass| (*device, mass)))
            .collect()
    }
}

impl Ledger {
    fn last(&self) -> i64 {
        let renamed = self.renamed.back().map_or(0, |(at, _)| *at);
        self.last_removal.max(renamed).max(self.ruined.back().map_or(0, |(at, ..)| *at))
    }

    fn directory(&mut self, directory: Ino) -> &mut Directory {
        if self.directories.len() >= DIRECTORIES && !self.directories.contains_key(&directory) {
            // So many at once: what is known of them is told by the counts for all.
            self.directories.clear();
            (self.scattered, self.foreign) = (0, 0);
        }
        self.directories.entry(directory).or_default()
    }

    fn ruin(&mut self, time: i64, ino: Ino, weight: u32) {
        if self.known.insert(ino) {
            self.ruined.push_back((time, ino, weight));
        }
    }

    fn add(&mut self, done: &Done) {
        let (time, ino) = (done.time, done.ino);
        let counts = done.age >= YOUNG || done.foreign;
        match &done.deed {
            Deed::Ruined if counts => self.ruin(time, ino, done.weight),
            Deed::Removed if counts => {
                self.removed.push_back(Removed { time, ino, directory: done.directory, foreign: done.foreign });
                self.last_removal = self.last_removal.max(time);
                let directory = self.directory(done.directory);
                directory.removed += 1;
                directory.foreign += u32::from(done.foreign);
                self.scattered += 1;
                self.foreign += u32::from(done.foreign);
            }
            Deed::Lost if counts => {
                let directory = self.directory(done.directory);
                directory.ordered += done.weight;
                if directory.ordered <= directory.made_of_noise {
                    self.ruin(time, ino, done.weight);
                }
            }
            Deed::MadeOfNoise => {
                let directory = self.directory(done.directory);
                directory.made_of_noise += done.weight;
                let replaces = directory.made_of_noise <= directory.ordered;
                self.noise.push_back((time, done.directory, done.weight));
                if replaces {
                    self.ruin(time, ino, done.weight);
                }
            }
            Deed::Renamed { from, to } if counts => {
                self.renamed.push_back((time, ino));
                let ending = added_ending(from, to).or_else(|| Some(other_ending(from, to)?.1));
                if let Some(ending) =
                    ending.filter(|ending| self.endings.len() < 1024 || self.endings.contains_key(ending))
                {
                    self.endings.entry(ending).or_default().push_back((time, ino));
                }
            }
            Deed::DirectoryRemoved => {
                if let Some(gone) = self.directories.remove(&ino) {
                    self.scattered = self.scattered.saturating_sub(gone.removed);
                    self.foreign = self.foreign.saturating_sub(gone.foreign);
                }
            }
            _ => {}
        }
    }

    /// Whether so many of something are to be told: as soon as they are too many, and whenever they doubled.
    fn is_due(&mut self, what: &'static str, count: usize, most: usize) -> bool {
        if count < most {
            // It is over: what begins anew is told anew.
            self.told.remove(what);
        }
        let told = self.told.get(what).copied().unwrap_or(0);
        let due = count >= most.max(2 * told);
        if due {
            self.told.insert(what, count);
        }
        due
    }

    fn first_removal(&self) -> Option<(i64, Ino)> {
        earliest(self.removed.iter().map(|one| (one.time, one.ino)))
    }

    fn judge(&mut self, files: u64, now: i64, is_done: bool) -> Vec<Mass> {
        while self.ruined.front().is_some_and(|(at, ..)| *at < now - WINDOW) || self.ruined.len() > DEEDS {
            let gone = self.ruined.pop_front();
            gone.inspect(|(_, ino, _)| _ = self.known.remove(ino));
        }
        while self.removed.len() > DEEDS || self.removed.front().is_some_and(|one| one.time < now - SLOW_WINDOW) {
            let Some(gone) = self.removed.pop_front() else { break };
            // (Those of directories that are gone don't count any more.)
            if let Some(directory) = self.directories.get_mut(&gone.directory).filter(|directory| directory.removed > 0)
            {
                directory.removed -= 1;
                self.scattered = self.scattered.saturating_sub(1);
                if gone.foreign && directory.foreign > 0 {
                    directory.foreign -= 1;
                    self.foreign = self.foreign.saturating_sub(1);
                }
            }
        }
        while self.noise.len() > DEEDS || self.noise.front().is_some_and(|(at, ..)| *at < now - WINDOW) {
            let Some((_, directory, weight)) = self.noise.pop_front() else { break };
            if let Some(directory) = self.directories.get_mut(&directory) {
                directory.made_of_noise = directory.made_of_noise.saturating_sub(weight);
            }
        }
        forget_before(&mut self.renamed, now - SLOW_WINDOW);
        self.endings.values_mut().for_each(|list| forget_before(list, now - WINDOW));
        self.endings.retain(|_, list| !list.is_empty());
        if self.removed.is_empty() {
            self.directories.retain(|_, directory| directory.made_of_noise > 0);
        }
        let mut found = Vec::new();
        let mut tell = |text: String, sure, first: Option<(i64, Ino)>| {
            found.extend(first.map(|(since, example)| Mass { text, sure, since, example }));
        };

        let ruined: usize = self.ruined.iter().map(|(_, _, weight)| *weight as usize).sum();
        if self.is_due("ruined", ruined, share(files, 1, 20, 100)) {
            let first = earliest(self.ruined.iter().map(|(at, ino, _)| (*at, *ino)));
            tell(format!("replaced what was in {ruined} files by what looks encrypted or wiped"), Sure::Likely, first);
        }

        let (removed, scattered) = (self.removed.len(), self.scattered as usize);
        let slowly = is_slow(self.removed.iter().map(|one| one.time));
        if slowly && self.is_due("removed slowly", scattered.min(removed), share(files, 2, 100, 250)) {
            tell(format!("removed {removed} files one after the other"), Sure::Possible, self.first_removal());
        }
        let in_many_places = self.directories.values().filter(|directory| directory.removed > 0).count() > ON_ONE_PATH;
        if is_done || in_many_places {
            let own = share(files, 25, 500, 100_000);
            if self.is_due("removed", scattered, own) {
                tell(format!("removed {scattered} files all over the volume"), Sure::Possible, self.first_removal());
            }
            let foreign = (self.foreign as usize).min(scattered);
            if self.is_due("removed others'", foreign, share(files, 4, 300, 10_000)) {
                tell(format!("removed {foreign} files that others had written"), Sure::Possible, self.first_removal());
            }
        }

        let renamed = self.renamed.len();
        let slowly = is_slow(self.renamed.iter().map(|(at, _)| *at));
        if slowly && self.is_due("renamed slowly", renamed, share(files, 2, 100, 250)) {
            let first = earliest(self.renamed.iter().copied());
            tell(format!("renamed {renamed} files one after the other"), Sure::Possible, first);
        }
        let most = self.endings.iter().max_by_key(|(_, list)| list.len());
        let most = most.map(|(ending, list)| (ending.clone(), list.len(), earliest(list.iter().copied())));
        if let Some((ending, count, first)) = most
            && self.is_due("ending", count, share(files, 1, 50, 150))
        {
            let ending = String::from_utf8_lossy(&ending).into_owned();
            tell(format!("gave {count} files names that end in {ending:?}"), Sure::Possible, first);
        }
        found
    }
}

/// The first by time. What waited for its content was counted after later ones.
fn earliest(all: impl Iterator<Item = (i64, Ino)>) -> Option<(i64, Ino)> {
    all.min_by_key(|(at, _)| *at)
}

/// What was found, in the words of an alert.
pub(crate) fn finding(device: &DeviceId, user: String, example: Option<String>, mass: &Mass) -> Finding {
    let short = device.short();
    let example = example.map(|path| format!(", {path:?} for one")).unwrap_or_default();
    let since = jiff::Timestamp::from_second(mass.since - BEFORE)
        .map_or_else(|_| "1d-ago".to_owned(), |time| format!("{time:.0}"));
    Finding {
        kind: Kind::MassChange,
        sure: mass.sure,
        who: device.to_string(),
        text: format!(
            "{user}'s device {short} {}{example}, since {since}; nothing old is dropped until somebody acknowledges this",
            mass.text
        ),
        user: Some(user),
        answer: format!("p2pfs undo --device {short} --since {since}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceId = DeviceId::from_bytes([7; 32]);
    const FILES: u64 = 10_000;

    fn done(nth: u64, deed: Deed, time: i64) -> Done {
        Done { deed, ino: Ino(1000 + nth), directory: Ino(2 + nth % 7), age: 3600, foreign: false, time, weight: 1 }
    }

    /// After how many of these something is told, each in a commit of its own.
    fn told_after(count: u64, each: impl Fn(u64) -> Vec<Done>) -> Option<(u64, String)> {
        let mut ledgers = Ledgers::default();
        (0..count).find_map(|nth| {
            let found = ledgers.take(DEVICE, FILES, &each(nth));
            found.first().map(|mass| (nth + 1, mass.text.clone()))
        })
    }

    #[test]
    fn one_a_second_is_seen_before_the_twentieth_part_is_gone() {
        let slow = |deed: Deed| told_after(499, |nth| vec![done(nth, deed.clone(), nth as i64)]);
        assert_eq!(slow(Deed::Ruined).unwrap().0, 100);
        assert_eq!(slow(Deed::Removed).unwrap().0, 200);
        let renamed = told_after(499, |nth| {
            let from = format!("{nth}.txt").into_bytes();
            vec![done(nth, Deed::Renamed { to: [&from[..], b".locked"].concat(), from }, nth as i64)]
        });
        assert_eq!(renamed.unwrap().0, 100);
        let other = told_after(499, |nth| {
            let (from, to) = (format!("{nth}.txt").into_bytes(), format!("{}", nth * 7919).into_bytes());
            vec![done(nth, Deed::Renamed { from, to }, nth as i64)]
        });
        assert_eq!(other.unwrap().0, 200);
        let pair = told_after(499, |nth| {
            let made = Done { ino: Ino(1_000_000 + nth), age: 0, ..done(nth, Deed::MadeOfNoise, nth as i64) };
            vec![made, done(nth, Deed::Removed, nth as i64), done(nth, Deed::Lost, nth as i64)]
        });
        assert_eq!(pair.unwrap().0, 100);
        // One a minute as well, and if it takes a day.
        assert_eq!(told_after(499, |nth| vec![done(nth, Deed::Ruined, 60 * nth as i64)]).unwrap().0, 100);
    }

    #[test]
    fn it_is_told_again_when_it_doubled() {
        let mut ledgers = Ledgers::default();
        let told =
            (0..1000).filter(|nth| !ledgers.take(DEVICE, FILES, &[done(*nth, Deed::Ruined, *nth as i64)]).is_empty());
        assert_eq!(told.collect::<Vec<_>>(), [99, 199, 399, 799]);
    }

    #[test]
    fn an_answer_goes_back_to_the_first_whenever_it_was_counted() {
        let mut ledgers = Ledgers::default();
        let mut all: Vec<Done> = (0..100).map(|nth| done(nth, Deed::Ruined, 1000 + nth as i64)).collect();
        all.rotate_left(3);
        let found = ledgers.take(DEVICE, FILES, &all);
        assert_eq!((found[0].since, found[0].example), (1000, Ino(1000)));
        let told = finding(&DEVICE, "bob".to_owned(), None, &found[0]);
        assert!(told.answer.ends_with("--since 1970-01-01T00:16:35Z"), "{}", told.answer);
    }

    #[test]
    fn removed_trees_and_what_cleans_up_are_nothing() {
        // rm -r: directory after directory, 64 changes a commit.
        let mut ledgers = Ledgers::default();
        for directory in 0..900u64 {
            let time = (directory / 100) as i64;
            let files = (0..50)
                .map(|nth| Done { directory: Ino(directory), ..done(directory * 50 + nth, Deed::Removed, time) });
            let gone = Done { ino: Ino(directory), ..done(0, Deed::DirectoryRemoved, time) };
            assert_eq!(ledgers.take(DEVICE, FILES, &files.chain([gone]).collect::<Vec<_>>()), []);
        }
        assert_eq!(ledgers.rest(FILES, 1000), []);
        // make clean: two thousand in many directories, at once.
        let mut ledgers = Ledgers::default();
        for directory in 0..200u64 {
            let files = (0..10).map(|nth| Done {
                directory: Ino(directory),
                ..done(directory * 10 + nth, Deed::Removed, (directory / 50) as i64)
            });
            assert_eq!(ledgers.take(DEVICE, FILES, &files.collect::<Vec<_>>()), []);
        }
        assert_eq!(ledgers.rest(FILES, 1000), []);
        // What was just made.
        assert_eq!(told_after(5000, |nth| vec![Done { age: 1, ..done(nth, Deed::Removed, nth as i64) }]), None);
    }

    #[test]
    fn others_files_and_a_quarter_of_all_are_told() {
        let mut ledgers = Ledgers::default();
        let all: Vec<Done> =
            (0..450).map(|nth| Done { foreign: true, ..done(nth, Deed::Removed, (nth / 200) as i64) }).collect();
        assert_eq!(ledgers.take(DEVICE, FILES, &all), [], "it may be a tree whose directory goes next");
        let found = ledgers.rest(FILES, 60);
        assert!(found[0].1.text.contains("450 files that others"), "{found:?}");
        let mut ledgers = Ledgers::default();
        let all: Vec<Done> = (0..2600).map(|nth| done(nth, Deed::Removed, (nth / 1000) as i64)).collect();
        ledgers.take(DEVICE, FILES, &all);
        let found = ledgers.rest(FILES, 60);
        assert!(found[0].1.text.contains("2600 files all over"), "{found:?}");
    }

    #[test]
    fn names_that_people_give_are_nothing() {
        for (from, to) in
            [("a.log", "a.log.1"), ("x", "x.bak"), ("17.M1", "17.M1:2,S"), ("a.txt", "b.txt"), (".a", ".b")]
        {
            let (from, to) = (from.as_bytes(), to.as_bytes());
            assert_eq!(added_ending(from, to), None);
            assert_eq!(other_ending(from, to), None);
        }
        assert_eq!(other_ending(b"a.odt", b"a.locked").unwrap().1, b".locked");
        assert_eq!(told_after(40, |nth| vec![done(nth, Deed::Ruined, 0)]), None, "forty of ten thousand");
    }
}
