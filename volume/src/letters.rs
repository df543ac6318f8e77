//! Messages between members: written, kept, delivered to each device that is to have them, read.
//!
//! They are called letters here, since what replication says is called messages ([`crate::sync`]). Each is signed by the
//! device that wrote it, and its text sealed for the users who are to read it. It goes from that device to theirs and to no
//! other one ([`exchange`]); until all have said that it is on their disks it stays in the *outbox*.
//!
//! Rows of the store, beside the tree: no commit tells of letters, so whoever joins later doesn't get them, and they are
//! nothing that replicas agree on.
//!
//! Invariants: numbers of one device grow, also after its store was put back from a copy (they are taken from the clock). A
//! device takes the letters of another in the order of their numbers, each once. What one device sends pushes out nothing
//! but what it had sent before.

mod exchange;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
};

use crypto::{
    DeviceId, DeviceKeys, Entropy, Label, Signature, SymmetricKey, UserId, VolumeId, open_padded, seal_padded, verify,
};
use serde::{Deserialize, Serialize};

use crate::{
    Volume,
    audit::{Act, Op},
    commit::encode,
    core::{Core, decode_row},
    epochs::{Recipient, TO_DEVICE, as_user},
    error::{Error, Result},
    member::Role,
    sealed_store::SealedStore,
    store::{Batch, Space, prefix_end},
    time::Timestamp,
};

pub(crate) use exchange::Exchange;
pub use exchange::Took;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use exchange::fuzzing;

/// The longest text, in bytes.
pub const MAX_TEXT: usize = 16 << 10;
/// In place of a user's name: all members.
pub const ALL: &str = "@all";

/// All rows of letters.
const PREFIX: &[u8] = b"letter/";
/// Letters by their place in the order in which they came here.
const ROWS: &[u8] = b"letter/row/";
/// Where a letter is, by device and number.
const PLACES: &[u8] = b"letter/at/";
/// The places of those that nobody has read.
const UNREAD: &[u8] = b"letter/unread/";
/// How far this device has the letters of another.
const GOT: &[u8] = b"letter/got/";
/// The outbox, by number.
const OUT: &[u8] = b"letter/out/";
/// Up to which number a device has this one's letters.
const ACKNOWLEDGED: &[u8] = b"letter/acknowledged/";
/// What this device has sent.
const SENT: &[u8] = b"letter/sent";

/// As many letters of one device are kept, and bytes of their texts; the oldest go.
const KEPT: u64 = 10_000;
const KEPT_BYTES: u64 = 64 << 20;
/// As many wait in the outbox, and as many bytes.
const OUTBOX: u64 = 10_000;
const OUTBOX_BYTES: u64 = 64 << 20;
/// Rows that are read at once.
const AT_ONCE: usize = 64;
/// For what a list tells beside each text, in bytes.
const BESIDE: usize = 512;

/// A letter, for whoever reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// Its place in the order in which they came here, from 1 on.
    pub n: u64,
    /// Who wrote it.
    pub from: String,
    /// On which device, in hexadecimal.
    pub device: String,
    /// To whom; [`ALL`] for all members.
    pub to: String,
    /// When it was sent, by the writer's clock.
    pub sent: Timestamp,
    /// When it came here.
    pub came: Timestamp,
    /// What it says. Anything that is text: to be escaped where it is shown.
    pub text: String,
    /// Whether this device's user wrote it.
    pub own: bool,
    /// Whether somebody has read it here.
    pub read: bool,
    /// How many devices have not got it yet, of one that was sent from here.
    pub waiting: u64,
}

/// Letters that nobody has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// How many.
    pub count: u64,
    /// The place of the newest, or 0.
    pub last: u64,
}

/// Called when letters came or were sent.
pub type OnLetter = Box<dyn Fn() + Send + Sync>;

/// A letter as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    device: DeviceId,
    number: u64,
    user: UserId,
    to: Option<UserId>,
    sent: Timestamp,
    came: Timestamp,
    text: String,
}

/// How far this device has the letters of another, and how many of them it keeps.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Got {
    number: u64,
    count: u64,
    bytes: u64,
}

/// The number of the last letter that this device sent, and how many are in the outbox.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Sent {
    number: u64,
    count: u64,
    bytes: u64,
}

/// The key of a letter's text, sealed to a user or a device. As [`crate::commit::SealedKey`] is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SealedFor {
    user: UserId,
    generation: u32,
    #[serde(with = "serde_bytes")]
    sealed: Vec<u8>,
}

/// A letter as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SignedLetter {
    number: u64,
    /// All members, if nobody is named.
    to: Option<UserId>,
    time: Timestamp,
    #[serde(with = "serde_bytes")]
    text: Vec<u8>,
    /// The device's, over the volume, the device and all of the above.
    signature: Signature,
    /// Those for the device that gets it.
    keys: Vec<SealedFor>,
}

impl SignedLetter {
    /// Seals a text to its readers, and signs it.
    fn seal(
        volume: &VolumeId,
        device: &DeviceKeys,
        (number, to, time): (u64, Option<UserId>, Timestamp),
        readers: &[Recipient],
        text: &str,
        entropy: &dyn Entropy,
    ) -> Self {
        let binding = Self::binding(volume, &device.id(), number);
        let key = SymmetricKey::generate(entropy);
        let mut keys = Vec::new();
        for reader in readers {
            match reader.box_key.seal(Label::BoxLetterKey, &binding, key.expose(), entropy) {
                Ok(sealed) => keys.push(SealedFor { user: reader.user, generation: reader.generation, sealed }),
                // Whoever made such a key wants to get nothing; the others are to have it.
                Err(e) => log::warn!("user {}: {e}: no message is sealed to it", reader.user.short()),
            }
        }
        let text = seal_padded(&key.derive(Label::LetterText, b""), &binding, text.as_bytes(), entropy);
        let signature = Signature::from_bytes([0; Signature::LEN]);
        let mut letter = Self { number, to, time, text, signature, keys };
        letter.signature = device.signing.sign(Label::LetterSignature, &letter.message(volume, &device.id()));
        letter
    }

    fn message(&self, volume: &VolumeId, device: &DeviceId) -> Vec<u8> {
        encode(&(volume, device, self.number, self.to, self.time, serde_bytes::Bytes::new(&self.text)))
    }

    /// What text and keys are bound to.
    fn binding(volume: &VolumeId, device: &DeviceId, number: u64) -> Vec<u8> {
        encode(&(volume, device, number))
    }

    /// Whether `device` signed it.
    fn is_signed(&self, volume: &VolumeId, device: &DeviceId) -> bool {
        verify(Label::LetterSignature, device, &self.message(volume, device), &self.signature).is_ok()
    }

    /// The keys that a device of a user opens.
    fn keys_for(&self, user: &UserId, device: &DeviceId) -> impl Iterator<Item = &SealedFor> {
        let (user, device) = (*user, as_user(device));
        self.keys.iter().filter(move |key| match key.generation {
            TO_DEVICE => key.user == device,
            _ => key.user == user,
        })
    }

    fn bytes(&self) -> u64 {
        (self.text.len() + self.keys.iter().map(|key| key.sealed.len() + 64).sum::<usize>()) as u64
    }
}

/// A letter in the outbox, with all its keys.
#[derive(Debug, Serialize, Deserialize)]
struct Outgoing {
    letter: SignedLetter,
    /// Whose devices are to have it.
    users: BTreeSet<UserId>,
}

fn numbered(prefix: &[u8], n: u64) -> Vec<u8> {
    [prefix, &n.to_be_bytes()].concat()
}

fn of_device(prefix: &[u8], device: &DeviceId) -> Vec<u8> {
    [prefix, device.as_bytes()].concat()
}

/// The number at the end of a key.
fn number_in(key: &[u8]) -> Result<u64> {
    let number = key.last_chunk().map(|bytes| u64::from_be_bytes(*bytes));
    number.ok_or_else(|| Error::damaged("the key of a message"))
}

/// The number of the last letter that was sent.
pub(crate) fn last_sent(store: &SealedStore) -> Result<u64> {
    Ok(sent(store)?.number)
}

fn sent(store: &SealedStore) -> Result<Sent> {
    let row = store.get(Space::Meta, SENT)?;
    row.map_or(Ok(Sent::default()), |row| decode_row("what messages were sent", &row))
}

/// Takes letters over into a store that is built anew, those that can be read.
pub(crate) fn copy(old: &SealedStore, new: &SealedStore) -> Result<()> {
    let mut from = PREFIX.to_vec();
    loop {
        let Ok(rows) = old.raw().scan(Space::Meta, &from, &prefix_end(PREFIX), AT_ONCE) else { return Ok(()) };
        let Some((last, _)) = rows.last() else { return Ok(()) };
        from = [last.as_slice(), &[0]].concat();
        let mut batch = Batch::new();
        for (key, sealed) in rows {
            if let Ok(plain) = old.open(Space::Meta, &key, &sealed) {
                new.put(&mut batch, Space::Meta, key, &plain);
            }
        }
        new.apply(batch)?;
    }
}

/// Microseconds since 1970.
fn micros(time: Timestamp) -> u64 {
    u64::try_from(time.secs).unwrap_or(0).saturating_mul(1_000_000).saturating_add(u64::from(time.nanos / 1000))
}

impl Core {
    /// The user of this name, who must be one who reads.
    pub(crate) fn reader_named(&self, name: &str) -> Result<UserId> {
        let unknown =
            || Error::Refused(format!("there is no member `{}`: `p2pfs users` lists them", name.escape_debug()));
        let user = self.members.user_named(name).ok_or_else(unknown)?;
        let row = self.members.users.get(&user).ok_or_else(unknown)?;
        if row.removed {
            return Err(Error::Refused(format!("`{name}` was removed from the volume")));
        }
        if row.role <= Role::Keeper {
            return Err(Error::Refused(format!("`{name}` is a keeper, which reads nothing")));
        }
        Ok(user)
    }

    /// Whoever reads letters of this name or, without one, all who do.
    fn readers_of_letters(&self, to: Option<&str>) -> Result<(Option<UserId>, BTreeSet<UserId>)> {
        let me = self.user.id();
        let Some(name) = to else {
            let readers = self.members.users.iter().filter(|(_, row)| !row.removed && row.role > Role::Keeper);
            return Ok((None, readers.map(|(user, _)| *user).collect()));
        };
        let user = self.reader_named(name)?;
        Ok((Some(user), BTreeSet::from([user, me])))
    }

    fn seal_letter(
        &mut self,
        number: u64,
        to: Option<UserId>,
        users: &BTreeSet<UserId>,
        text: &str,
    ) -> Result<SignedLetter> {
        let readers = self.recipients(users.iter().copied())?;
        let (volume, time) = (self.volume, self.now());
        Ok(SignedLetter::seal(&volume, &self.device, (number, to, time), &readers, text, &*self.entropy))
    }

    /// The text of a letter from `device`; nothing if none of its keys is one that this device has.
    fn open_letter(&self, device: &DeviceId, letter: &SignedLetter) -> Option<String> {
        let binding = SignedLetter::binding(&self.volume, device, letter.number);
        let open = |key: &SealedFor| {
            let open_with = |secret: &crypto::BoxSecret| {
                let plain = secret.open(Label::BoxLetterKey, &binding, &key.sealed).ok()?;
                Some(SymmetricKey::from_bytes(plain.as_slice().try_into().ok()?))
            };
            if key.generation == TO_DEVICE {
                return open_with(&self.device.boxes);
            }
            let secrets = self.own_secrets();
            secrets.iter().filter(|row| row.generation == key.generation).find_map(|row| open_with(&row.secret()))
        };
        let key = letter.keys_for(&self.user.id(), &self.device.id()).find_map(open)?;
        let text = open_padded(&key.derive(Label::LetterText, b""), &binding, &letter.text).ok()?;
        String::from_utf8(text).ok().filter(|text| !text.is_empty() && text.len() <= MAX_TEXT)
    }

    /// Whether a letter is sealed to a key that this user made since this device heard of it last: the commit that brings it is
    /// on its way.
    fn lacks_key_of(&self, letter: &SignedLetter) -> bool {
        let (user, device) = (self.user.id(), self.device.id());
        // (Of those that are known here this device may have no secret; no commit brings it then.)
        let made = self.user_keys(&user).into_iter().flat_map(|row| row.keys).map(|key| key.public.generation);
        let newest = made.fold(self.user.generation, u32::max);
        let mut keys = letter.keys_for(&user, &device).peekable();
        keys.peek().is_some() && keys.all(|key| key.generation != TO_DEVICE && key.generation > newest)
    }

    /// The place of the next letter.
    fn next_place(&self) -> Result<u64> {
        let last = self.store.raw().last(Space::Meta, ROWS, &prefix_end(ROWS))?;
        last.map_or(Ok(1), |(key, _)| Ok(number_in(&key)?.saturating_add(1)))
    }

    fn got(&self, device: &DeviceId) -> Result<Got> {
        let row = self.store.get(Space::Meta, &of_device(GOT, device))?;
        row.map_or(Ok(Got::default()), |row| decode_row("what messages came", &row))
    }

    /// Puts letters of one device into `batch`, in the order of their numbers, and drops the oldest of that device beyond what
    /// is kept.
    fn keep_letters(&self, batch: &mut Batch, rows: &[Row]) -> Result<()> {
        let Some(device) = rows.first().map(|row| row.device) else { return Ok(()) };
        let mut got = self.got(&device)?;
        let first = self.next_place()?;
        for (n, row) in (first..).zip(rows) {
            self.store.put(batch, Space::Meta, numbered(ROWS, n), &encode(row));
            let place = numbered(&of_device(PLACES, &device), row.number);
            self.store.put(batch, Space::Meta, place, &n.to_be_bytes());
            if row.user != self.user.id() {
                self.store.put(batch, Space::Meta, numbered(UNREAD, n), &[]);
            }
            got.number = row.number;
            got.count += 1;
            got.bytes += row.text.len() as u64;
        }
        let places = of_device(PLACES, &device);
        let mut from = places.clone();
        while got.count > KEPT || got.bytes > KEPT_BYTES {
            let oldest = self.store.scan(Space::Meta, &from, &prefix_end(&places), 1)?;
            let Some((key, place)) = oldest.into_iter().next() else { break };
            let n = number_in(&place)?;
            let row = self.store.get(Space::Meta, &numbered(ROWS, n))?;
            let bytes =
                row.map_or(Ok(0), |row| decode_row::<Row>("a message", &row).map(|row| row.text.len() as u64))?;
            batch.remove(Space::Meta, numbered(ROWS, n));
            batch.remove(Space::Meta, numbered(UNREAD, n));
            from = [key.as_slice(), &[0]].concat();
            batch.remove(Space::Meta, key);
            got.count = got.count.saturating_sub(1);
            got.bytes = got.bytes.saturating_sub(bytes);
        }
        self.store.put(batch, Space::Meta, of_device(GOT, &device), &encode(&got));
        Ok(())
    }

    /// Up to which number other devices have this one's letters.
    fn acknowledged(&self) -> Result<BTreeMap<DeviceId, u64>> {
        let rows = self.store.scan(Space::Meta, ACKNOWLEDGED, &prefix_end(ACKNOWLEDGED), usize::MAX)?;
        let each = |(key, row): (Vec<u8>, Vec<u8>)| {
            let device = key.last_chunk().map(|bytes| DeviceId::from_bytes(*bytes));
            Ok((device.ok_or_else(|| Error::damaged("the key of a message"))?, number_in(&row)?))
        };
        rows.into_iter().map(each).collect()
    }

    /// How many devices are to get a letter and have not said that they have it.
    fn lacking(&self, outgoing: &Outgoing, acknowledged: &BTreeMap<DeviceId, u64>) -> u64 {
        let me = self.device.id();
        let mut lacking = 0;
        for user in &outgoing.users {
            for device in self.members.devices_of(user).map(|row| row.public.id) {
                let is_wanted = device != me
                    && self.members.user_of(&device).is_some()
                    && outgoing.letter.keys_for(user, &device).next().is_some();
                let has = acknowledged.get(&device).is_some_and(|number| *number >= outgoing.letter.number);
                lacking += u64::from(is_wanted && !has);
            }
        }
        lacking
    }

    /// Takes out of the outbox, from number `from` up to `to`, what nobody lacks any more.
    fn clear_outbox(&self, from: u64, to: u64, acknowledged: &BTreeMap<DeviceId, u64>) -> Result<()> {
        let mut from = numbered(OUT, from);
        let end = [numbered(OUT, to).as_slice(), &[0]].concat();
        loop {
            let rows = self.store.scan(Space::Meta, &from, &end, AT_ONCE)?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            from = [last.as_slice(), &[0]].concat();
            let (mut batch, mut sent) = (Batch::new(), sent(&self.store)?);
            for (key, row) in rows {
                let outgoing: Outgoing = decode_row("a message that was sent", &row)?;
                if self.lacking(&outgoing, acknowledged) == 0 {
                    batch.remove(Space::Meta, key);
                    sent.count = sent.count.saturating_sub(1);
                    sent.bytes = sent.bytes.saturating_sub(outgoing.letter.bytes());
                }
            }
            if !batch.is_empty() {
                self.store.put(&mut batch, Space::Meta, SENT, &encode(&sent));
                self.store.apply(batch)?;
            }
        }
    }

    /// Room in the outbox.
    fn room_in_outbox(&self) -> Result<Sent> {
        let is_full = |sent: &Sent| sent.count >= OUTBOX || sent.bytes >= OUTBOX_BYTES;
        let before = sent(&self.store)?;
        if !is_full(&before) {
            return Ok(before);
        }
        // Who was removed since waits for nothing.
        self.clear_outbox(0, u64::MAX, &self.acknowledged()?)?;
        let after = sent(&self.store)?;
        if is_full(&after) {
            let why = "messages wait for devices that have not come since: `p2pfs devices` lists them, \
                `p2pfs revoke` removes one that won't come back";
            return Err(Error::Refused(format!("{} {why}", after.count)));
        }
        Ok(after)
    }
}

impl Volume {
    /// Has `tell` called whenever letters came or were sent. Once; it must be quick.
    pub fn on_letter(&self, tell: OnLetter) {
        let _ = self.inner.on_letter.set(tell);
    }

    /// Sends a message to a user, by name, or to all members. It is on the disk when this returns; how many devices
    /// it goes to is returned.
    ///
    /// # Errors
    /// [`Error::Refused`], with what is wrong, and of whoever is no member or a keeper; or the disk failed.
    pub fn send_letter(&self, to: Option<&str>, text: &str) -> Result<u64> {
        if text.is_empty() || text.len() > MAX_TEXT {
            return Err(Error::Refused(format!("a message has 1 to {MAX_TEXT} bytes: this one has {}", text.len())));
        }
        self.check_space(2 * text.len())?;
        let (number, devices, act) = {
            let mut core = self.inner.core.lock();
            let me = core.device.id();
            match core.members.role_of(&me) {
                None => return Err(Error::Refused("this device is no member of the volume".to_owned())),
                Some(Role::Keeper) => return Err(Error::Refused("a keeper reads and sends no messages".to_owned())),
                Some(_) => {}
            }
            let (to, users) = core.readers_of_letters(to)?;
            let before = core.room_in_outbox()?;
            let number = micros(core.now()).max(before.number.saturating_add(1));
            let letter = core.seal_letter(number, to, &users, text)?;
            let row = Row {
                device: me,
                number,
                user: core.user.id(),
                to,
                sent: letter.time,
                came: letter.time,
                text: text.to_owned(),
            };
            let outgoing = Outgoing { letter, users };
            let devices = core.lacking(&outgoing, &BTreeMap::new());
            let mut batch = Batch::new();
            core.keep_letters(&mut batch, &[row])?;
            let mut sent = Sent { number, ..before };
            if devices > 0 {
                sent.count += 1;
                sent.bytes += outgoing.letter.bytes();
                core.store.put(&mut batch, Space::Meta, numbered(OUT, number), &encode(&outgoing));
            }
            core.store.put(&mut batch, Space::Meta, SENT, &encode(&sent));
            core.store.apply(batch)?;
            let whom = to.map_or_else(|| "all members".to_owned(), |user| core.members.shown_name(&user));
            (
                number,
                devices,
                Act {
                    bytes: Some(text.len() as u64),
                    note: Some(format!("sent to {whom}")),
                    ..core.own_act(Op::Message)
                },
            )
        };
        self.sync_store()?;
        self.inner.last_letter.fetch_max(number, Ordering::AcqRel);
        self.wake_sessions();
        self.tell_letters();
        if let Some(audit) = self.audit() {
            audit.record(act);
        }
        Ok(devices)
    }

    fn tell_letters(&self) {
        if let Some(tell) = self.inner.on_letter.get() {
            tell();
        }
    }

    /// Letters from place `from` on, in the order in which they came here: as many as have `bytes` together, and at least one.
    /// Each counts as its text and what is told beside it.
    ///
    /// # Errors
    /// The disk failed.
    pub fn letters(&self, from: u64, bytes: usize) -> Result<Vec<Letter>> {
        let core = self.inner.core.lock();
        let acknowledged = core.acknowledged()?;
        let (me, device) = (core.user.id(), core.device.id());
        let (mut letters, mut taken, mut from) = (Vec::new(), 0, numbered(ROWS, from));
        loop {
            let rows = core.store.scan(Space::Meta, &from, &prefix_end(ROWS), AT_ONCE)?;
            let Some((last, _)) = rows.last() else { return Ok(letters) };
            from = [last.as_slice(), &[0]].concat();
            for (key, row) in rows {
                let row: Row = decode_row("a message", &row)?;
                taken += row.text.len() + BESIDE;
                if taken > bytes && !letters.is_empty() {
                    return Ok(letters);
                }
                let n = number_in(&key)?;
                let out = match row.device == device {
                    true => core.store.get(Space::Meta, &numbered(OUT, row.number))?,
                    false => None,
                };
                let waiting = match out {
                    Some(out) => core.lacking(&decode_row("a message that was sent", &out)?, &acknowledged),
                    None => 0,
                };
                letters.push(Letter {
                    n,
                    from: core.members.shown_name(&row.user),
                    device: row.device.to_string(),
                    to: row.to.map_or_else(|| ALL.to_owned(), |user| core.members.shown_name(&user)),
                    sent: row.sent,
                    came: row.came,
                    text: row.text,
                    own: row.user == me,
                    read: core.store.raw().get(Space::Meta, &numbered(UNREAD, n))?.is_none(),
                    waiting,
                });
            }
        }
    }

    /// The letters that nobody has read here.
    ///
    /// # Errors
    /// The disk failed.
    pub fn unread_letters(&self) -> Result<Unread> {
        let rows = self.inner.store.raw().scan(Space::Meta, UNREAD, &prefix_end(UNREAD), usize::MAX)?;
        let last = rows.last().map_or(Ok(0), |(key, _)| number_in(key))?;
        Ok(Unread { count: rows.len() as u64, last })
    }

    /// Notes that these letters were read, or all without any. Tells how many of them nobody had read before.
    ///
    /// # Errors
    /// The disk failed.
    pub fn read_letters(&self, which: Option<&[u64]>) -> Result<u64> {
        let core = self.inner.core.lock();
        let unread = core.store.raw().scan(Space::Meta, UNREAD, &prefix_end(UNREAD), usize::MAX)?;
        let keys: BTreeSet<Vec<u8>> = unread.into_iter().map(|(key, _)| key).collect();
        let meant: BTreeSet<Vec<u8>> = match which {
            Some(numbers) => numbers.iter().map(|n| numbered(UNREAD, *n)).filter(|key| keys.contains(key)).collect(),
            None => keys,
        };
        let mut batch = Batch::new();
        let count = meant.len() as u64;
        meant.into_iter().for_each(|key| batch.remove(Space::Meta, key));
        core.store.apply(batch)?;
        Ok(count)
    }
}
