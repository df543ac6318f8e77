//! Settings: which there are, what their values mean, and what holds on this device.
//!
//! Owns the table of settings, how their values are written, and a device's own values. Does not own who may set them
//! ([`crate::agreed`]), or what is done by them.
//!
//! Invariants: what is not understood changes nothing: a setting of a later version, or a value that is none, counts as
//! not set, and stays. A device's own value is what it keeps beyond the volume's, never less.

use std::{collections::BTreeMap, fmt, time::Duration};

use crypto::DeviceId;

use crate::{
    agreed::{Rank, SettingValue, setting_tag},
    commit::{ChangeKind, SettingBody, encode},
    core::{Core, decode_row},
    error::{Error, Result},
    sealed_store::SealedStore,
    store::{Batch, Space},
    time::Timestamp,
    version::ValueRef,
    volume::Volume,
};

/// Every setting there is, with its default.
const KNOWN: [(&str, &str); 6] =
    [(KEEP_ALL, "30d"), (HOURLY, "60d"), (DAILY, "1y"), (WEEKLY, "3y"), (MONTHLY, "forever"), (BUDGET, "25%")];
const KEEP_ALL: &str = "history.keep-all";
const HOURLY: &str = "history.hourly";
const DAILY: &str = "history.daily";
const WEEKLY: &str = "history.weekly";
const MONTHLY: &str = "history.monthly";
const BUDGET: &str = "history.budget";

/// Of settings that this version doesn't know, so many are listed.
const UNKNOWN_MAX: usize = 64;
const NAME_MAX: usize = 64;
const VALUE_MAX: usize = 1024;
/// This device's own values, in [`Space::Meta`].
const OWN: &[u8] = b"own-settings";
/// Taken for the size of a disk of which none is known, as in memory.
const SOME_DISK: u64 = 1 << 40;

const UNITS: [(&str, u64); 6] = [("y", 365 * DAY), ("w", 7 * DAY), ("d", DAY), ("h", 3600), ("m", 60), ("s", 1)];
const DAY: u64 = 86_400;
/// A thousand years: anything longer is for ever.
const LONGEST: u64 = 1000 * 365 * DAY;
const SIZES: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// How long versions are kept. What an earlier step keeps, later ones need not look at: one that is shorter than the step
/// before it has no effect. [`Duration::MAX`] is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Every version is kept up to this age.
    pub keep_all: Duration,
    /// One version an hour is kept up to this age.
    pub hourly: Duration,
    /// One a day.
    pub daily: Duration,
    /// One a week.
    pub weekly: Duration,
    /// One a month; `None`: for ever.
    pub monthly: Option<Duration>,
    /// How much room all of it may take.
    pub budget: Budget,
}

/// How much room history may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// So many hundredths of the disk that the store is on.
    Share(u8),
    /// So many bytes.
    Bytes(u64),
}

impl Budget {
    /// How much that is on a disk of so many bytes.
    pub fn bytes(self, disk: u64) -> u64 {
        match self {
            Budget::Share(share) => disk / 100 * u64::from(share),
            Budget::Bytes(bytes) => bytes,
        }
    }
}

/// A value, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Amount {
    /// `None`: for ever.
    Age(Option<Duration>),
    Room(Budget),
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_units = |f: &mut fmt::Formatter<'_>, number: u64, units: &[(&str, u64)]| {
            let fits = units.iter().find(|(_, size)| number != 0 && number.is_multiple_of(*size));
            let (unit, size) = fits.or(units.last()).expect("there are units");
            write!(f, "{}{unit}", number / size)
        };
        match self {
            Amount::Age(None) => f.write_str("forever"),
            Amount::Age(Some(age)) => in_units(f, age.as_secs(), &UNITS),
            Amount::Room(Budget::Share(share)) => write!(f, "{share}%"),
            Amount::Room(Budget::Bytes(bytes)) => in_units(f, *bytes, &SIZES),
        }
    }
}

impl Amount {
    /// What `text` means as a value of the setting `name`.
    fn parse(name: &str, text: &str) -> Result<Amount, String> {
        let counted = |units: &[(&str, u64)]| {
            let (unit, size) = units.iter().find(|(unit, _)| text.ends_with(unit))?;
            let digits = text.strip_suffix(unit)?;
            let number = digits.parse::<u64>().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))?;
            number.checked_mul(*size)
        };
        if name == BUDGET {
            let share = text.strip_suffix('%').and_then(|text| text.parse().ok()).filter(|s| (1..=100).contains(s));
            let budget = share.map(Budget::Share).or_else(|| counted(&SIZES).map(Budget::Bytes));
            let wanted = || format!("`{text}` is no budget: use a share of the disk, as 25%, or a size, as 20GiB");
            return budget.map(Amount::Room).ok_or_else(wanted);
        }
        if text == "forever" {
            return Ok(Amount::Age(None));
        }
        let wanted = || format!("`{text}` is no time: use a number with s, m, h, d, w or y, as 30d, or forever");
        let secs = counted(&UNITS).filter(|secs| *secs <= LONGEST).ok_or_else(wanted)?;
        Ok(Amount::Age(Some(Duration::from_secs(secs))))
    }

    /// How much it is beside others of its kind.
    fn measure(self, disk: Option<u64>) -> u64 {
        match self {
            Amount::Age(age) => age.map_or(u64::MAX, |age| age.as_secs()),
            Amount::Room(budget) => budget.bytes(disk.unwrap_or(SOME_DISK)),
        }
    }
}

/// Whether less of history is kept with the second of two values of a setting, as far as that can be told: a share of disks that
/// aren't known is beside a size what may be less.
pub fn keeps_less(name: &str, before: &str, after: &str) -> bool {
    if default_of(name).is_none() {
        return false;
    }
    match (Amount::parse(name, before), Amount::parse(name, after)) {
        (Ok(Amount::Room(Budget::Share(_))), Ok(Amount::Room(Budget::Bytes(_))))
        | (Ok(Amount::Room(Budget::Bytes(_))), Ok(Amount::Room(Budget::Share(_)))) => true,
        (Ok(before), Ok(after)) => after.measure(None) < before.measure(None),
        // One that is no value is not set.
        (_, Err(_)) => false,
        (Err(_), Ok(_)) => true,
    }
}

fn default_of(name: &str) -> Option<&'static str> {
    KNOWN.iter().find(|(known, _)| *known == name).map(|(_, default)| *default)
}

/// What a member may call a setting, and give it as a value, of whatever version.
pub(crate) fn may_be(name: &str, value: Option<&str>) -> bool {
    let printable = |text: &str| !text.chars().any(char::is_control);
    !name.is_empty()
        && name.len() <= NAME_MAX
        && printable(name)
        && value.is_none_or(|value| value.len() <= VALUE_MAX && printable(value))
}

/// A setting, as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// What holds on this device.
    pub value: String,
    /// What holds unless somebody sets it; `None`: this version doesn't know the setting.
    pub default: Option<String>,
    /// Who set it for the volume.
    pub set: Option<Set>,
    /// This device's own value, which holds where it is the greater one.
    pub own: Option<String>,
}

/// That a setting was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// To what; `None`: put back to its default.
    pub value: Option<String>,
    /// Who did.
    pub user: String,
    /// On which device.
    pub device: DeviceId,
    /// When, by that device's clock.
    pub time: Timestamp,
}

/// What was set last, by the names of settings.
type Shown = BTreeMap<String, (ValueRef, SettingValue)>;

impl Core {
    /// For each setting that was ever set the value that shows, and where it stands.
    fn shown_settings(&mut self) -> Result<Shown> {
        let mut shown: BTreeMap<String, (Rank, ValueRef, SettingValue)> = BTreeMap::new();
        self.setting_rows(|core, row| {
            for value in row.values {
                let Some(setting) = value.value else { continue };
                let rank = core.agreed_rank(value.at, value.count, setting.device)?;
                if shown.get(&setting.name).is_none_or(|(other, ..)| *other < rank) {
                    shown.insert(setting.name.clone(), (rank, value.at, setting));
                }
            }
            let unknown: Vec<&String> = shown.keys().filter(|name| default_of(name).is_none()).collect();
            for name in
                unknown.get(UNKNOWN_MAX..).unwrap_or_default().iter().map(ToString::to_string).collect::<Vec<_>>()
            {
                shown.remove(&name);
            }
            Ok(())
        })?;
        Ok(shown.into_iter().map(|(name, (_, at, value))| (name, (at, value))).collect())
    }

    fn own_settings(&self) -> Result<BTreeMap<String, String>> {
        match self.store.get(Space::Meta, OWN)? {
            Some(bytes) => decode_row::<Vec<(String, String)>>("own settings", &bytes).map(BTreeMap::from_iter),
            None => Ok(BTreeMap::new()),
        }
    }

    /// What a known setting is for the whole volume.
    fn agreed(shown: &Shown, name: &str, default: &str) -> Amount {
        let set = shown.get(name).and_then(|(_, set)| Amount::parse(name, set.value.as_deref()?).ok());
        let amount = set.unwrap_or_else(|| Amount::parse(name, default).expect("defaults are values"));
        // (As another version may have set it.)
        if is_too_short(name, amount) { Amount::Age(Some(Duration::from_secs(DAY))) } else { amount }
    }

    /// What holds here: the greater of the volume's value and this device's own.
    fn in_effect(&self, agreed: Amount, name: &str, own: &BTreeMap<String, String>) -> Amount {
        let disk = self.space.total();
        let own = own.get(name).and_then(|text| Amount::parse(name, text).ok());
        own.filter(|own| own.measure(disk) > agreed.measure(disk)).unwrap_or(agreed)
    }

    /// How long history is kept on this device.
    pub(crate) fn retention(&mut self) -> Result<Retention> {
        let (shown, own) = (self.shown_settings()?, self.own_settings()?);
        let get = |name| {
            let default = default_of(name).expect("one of the table");
            self.in_effect(Self::agreed(&shown, name, default), name, &own)
        };
        let age = |name| match get(name) {
            Amount::Age(age) => age,
            Amount::Room(_) => None,
        };
        let up_to = |name| age(name).unwrap_or(Duration::MAX);
        let budget = match get(BUDGET) {
            Amount::Room(budget) => budget,
            Amount::Age(_) => Budget::Share(100),
        };
        Ok(Retention {
            keep_all: up_to(KEEP_ALL),
            hourly: up_to(HOURLY),
            daily: up_to(DAILY),
            weekly: up_to(WEEKLY),
            monthly: age(MONTHLY),
            budget,
        })
    }

    fn settings(&mut self) -> Result<Vec<Setting>> {
        let (mut shown, own) = (self.shown_settings()?, self.own_settings()?);
        let said = |core: &Core, (at, set): (ValueRef, SettingValue)| -> Result<Set> {
            let user = core.members.shown_name(&set.user);
            Ok(Set { value: set.value, user, device: set.device, time: core.made(at)?.0 })
        };
        let mut settings = Vec::new();
        for (name, default) in KNOWN {
            let agreed = Self::agreed(&shown, name, default);
            settings.push(Setting {
                name: name.to_owned(),
                value: self.in_effect(agreed, name, &own).to_string(),
                default: Some(default.to_owned()),
                set: shown.remove(name).map(|set| said(self, set)).transpose()?,
                own: own.get(name).cloned(),
            });
        }
        for (name, set) in shown {
            let Some(value) = set.1.value.clone() else { continue };
            settings.push(Setting { name, value, default: None, set: Some(said(self, set)?), own: None });
        }
        Ok(settings)
    }

    /// Sets a setting for the volume, or puts it back to its default.
    fn set(&mut self, name: &str, value: Option<String>) -> Result<()> {
        let (epoch, key) = self.sealing_epoch().ok_or_else(Error::not_synced)?;
        let tag = setting_tag(&key, name);
        let gone: Vec<ValueRef> =
            self.setting_row(&tag)?.map(|row| row.values.iter().map(|v| v.at).collect()).unwrap_or_default();
        let sealing = key.derive(crypto::Label::BodyKey);
        let body = SettingBody { name: name.to_owned(), value };
        self.emit(ChangeKind::Setting { epoch, tag }, &gone, Some((&sealing, &body))).map(|_| ())
    }

    fn set_own(&mut self, name: &str, value: Option<Amount>, default: &str) -> Result<()> {
        let mut own = self.own_settings()?;
        match value {
            Some(value) => {
                let (shown, disk) = (self.shown_settings()?, self.space.total());
                let agreed = Self::agreed(&shown, name, default);
                if value.measure(disk) < agreed.measure(disk) {
                    return Err(Error::Refused(format!(
                        "{name} is {agreed} in this volume, and this device can't keep less: nobody has promised to keep \
                         the rest"
                    )));
                }
                own.insert(name.to_owned(), value.to_string());
            }
            None => drop(own.remove(name)),
        }
        let mut batch = Batch::new();
        put_own(&self.store, &mut batch, &own.into_iter().collect::<Vec<_>>());
        self.store.apply(batch)?;
        self.store.sync()
    }
}

fn put_own(store: &SealedStore, batch: &mut Batch, own: &[(String, String)]) {
    store.put(batch, Space::Meta, OWN, &encode(&own));
}

/// Takes a device's own values over into a store that is built anew, if they can be read.
pub(crate) fn copy_own(old: &SealedStore, new: &SealedStore) -> Result<()> {
    let row = old.get(Space::Meta, OWN).ok().flatten();
    let Some(own) = row.and_then(|row| decode_row::<Vec<(String, String)>>("own settings", &row).ok()) else {
        return Ok(());
    };
    let mut batch = Batch::new();
    put_own(new, &mut batch, &own);
    new.apply(batch)
}

/// Whether the device's own values in [`Space::Meta`] are some; nothing for other rows.
pub(crate) fn is_sound(key: &[u8], plain: &[u8]) -> Option<bool> {
    (key == OWN).then(|| decode_row::<Vec<(String, String)>>("own settings", plain).is_ok())
}

/// Whether it is less than what is kept of everything whatever is set.
fn is_too_short(name: &str, amount: Amount) -> bool {
    name == KEEP_ALL && amount.measure(None) < DAY
}

/// A setting of the table, and what `value` means for it.
fn understood(name: &str, value: Option<&str>) -> Result<(&'static str, Option<Amount>)> {
    let Some(default) = default_of(name) else {
        let all: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
        return Err(Error::Refused(format!("no such setting: `{}` ({})", name.escape_debug(), all.join(", "))));
    };
    let value = value.map(|text| Amount::parse(name, text)).transpose().map_err(Error::Refused)?;
    Ok((default, value))
}

impl Volume {
    /// All settings: those of this version first, in the order of its table.
    ///
    /// # Errors
    /// The disk failed.
    pub fn settings(&self) -> Result<Vec<Setting>> {
        self.inner.core.lock().settings()
    }

    /// How long history is kept on this device.
    ///
    /// # Errors
    /// The disk failed.
    pub fn retention(&self) -> Result<Retention> {
        self.inner.core.lock().retention()
    }

    /// Sets a setting for the whole volume; without a value its default holds again.
    ///
    /// # Errors
    /// [`Error::Refused`] for who may not, and for what is no setting or no value; or the disk failed.
    pub fn set_setting(&self, name: &str, value: Option<&str>) -> Result<()> {
        let (_, value) = understood(name, value)?;
        if value.is_some_and(|value| is_too_short(name, value)) {
            return Err(Error::Refused(format!("{name} can't be less than 1d: everything is kept for a day at least")));
        }
        if !self.may_admit() {
            return Err(Error::Refused(
                "only the owner and admins set what holds for the volume (--device sets what this device keeps beyond it)"
                    .to_owned(),
            ));
        }
        self.local_commit(|core| {
            core.may_change()?;
            core.set(name, value.map(|value| value.to_string()))
        })
    }

    /// Sets what this device keeps beyond what the volume says; without a value nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] for less than the volume's value, and for what is no setting or no value; or the disk failed.
    pub fn set_own_setting(&self, name: &str, value: Option<&str>) -> Result<()> {
        let (default, value) = understood(name, value)?;
        self.inner.core.lock().set_own(name, value, default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::{BranchNo, Dot};

    const NOWHERE: ValueRef = ValueRef { dot: Dot { branch: BranchNo(0), seq: 0 }, index: 0 };

    fn check(name: &str, text: &str, expected: Option<&str>) {
        let got = Amount::parse(name, text).ok().map(|amount| amount.to_string());
        assert_eq!(got.as_deref(), expected, "{name} {text:?}");
    }

    #[test]
    fn what_keeps_less_is_told() {
        let check = |name, before, after, expected| {
            assert_eq!(keeps_less(name, before, after), expected, "{name} {before} {after}");
        };
        check(KEEP_ALL, "30d", "29d", true);
        check(KEEP_ALL, "30d", "720h", false);
        check(KEEP_ALL, "30d", "forever", false);
        check(MONTHLY, "forever", "1000y", true);
        check(BUDGET, "25%", "30%", false);
        check(BUDGET, "25%", "10%", true);
        check(BUDGET, "20GiB", "19GiB", true);
        check(BUDGET, "25%", "900TiB", true);
        check(BUDGET, "900TiB", "25%", true);
        check(KEEP_ALL, "30d", "soon", false);
        check("of.later", "2", "1", false);
    }

    #[test]
    fn times_and_sizes() {
        for (text, shown) in [
            ("30d", "30d"),
            ("60d", "60d"),
            ("365d", "1y"),
            ("14d", "2w"),
            ("24h", "1d"),
            ("90m", "90m"),
            ("0s", "0s"),
            ("1000y", "1000y"),
            ("forever", "forever"),
        ] {
            check(KEEP_ALL, text, Some(shown));
        }
        for (text, shown) in [("25%", "25%"), ("100%", "100%"), ("20GiB", "20GiB"), ("2048MiB", "2GiB"), ("5B", "5B")] {
            check(BUDGET, text, Some(shown));
        }
        for text in ["", "d", "30", "-1d", "+1d", "1.5h", "1001y", "18446744073709551616s", "9999999999999999999y", "é"]
        {
            check(KEEP_ALL, text, None);
        }
        for text in ["", "%", "0%", "101%", "forever", "30d", "GiB", "99999999TiB", "20G", "-5B", "1.5GiB"] {
            check(BUDGET, text, None);
        }
    }

    #[test]
    fn what_another_version_set_too_short_counts_as_a_day() {
        let check = |name: &str, text: &str, expected: &str| {
            let (user, device, at) = (crypto::UserId::ZERO, DeviceId::ZERO, NOWHERE);
            let value = SettingValue { user, device, name: name.to_owned(), value: Some(text.to_owned()) };
            let shown = Shown::from([(name.to_owned(), (at, value))]);
            assert_eq!(Core::agreed(&shown, name, "30d").to_string(), expected, "{name} {text}");
        };
        check(KEEP_ALL, "1h", "1d");
        check(KEEP_ALL, "0s", "1d");
        check(KEEP_ALL, "25h", "25h");
        check(KEEP_ALL, "nonsense", "30d");
        check(HOURLY, "1h", "1h");
    }

    #[test]
    fn what_is_shown_is_read_as_the_same() {
        for (name, default) in KNOWN {
            check(name, default, Some(default));
        }
    }
}
