//! For how long what was is kept: everything for a while, then fewer and fewer moments.
//!
//! Moments that are kept are told first ([`Moments`]), and only then rows go that no such moment reads. So whoever looks
//! at the past finds it whole at every moment that is still offered, whenever this is cut short.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    commit::encode,
    core::{Core, decode_row},
    error::Result,
    history::{Moments, span},
    settings::Retention,
    store::{Batch, Space},
    time::Timestamp,
    volume::Volume,
};

/// Rows looked at between two pauses.
const STEP: usize = 64;
const HOUR: u64 = 3600;
/// A clock may have gone on by so many seconds since it was last looked at.
const JUMP: i64 = 7 * 86_400;
/// Key in [`Space::Meta`] of the date when it was last looked at, and of that from which on it is believed.
const CLOCK: &[u8] = b"clock";

const DAY: Duration = Duration::from_secs(24 * HOUR);

impl Retention {
    /// How long the time is of which one moment of such an age is kept, in seconds; `None` if none is.
    fn every(&self, age: u64) -> Option<u64> {
        let steps = [(self.hourly, HOUR), (self.daily, 24 * HOUR), (self.weekly, 7 * 24 * HOUR)];
        let step = steps.into_iter().find(|(until, _)| age <= until.as_secs()).map(|(_, every)| every);
        step.or_else(|| self.monthly.is_none_or(|until| age <= until.as_secs()).then_some(30 * 24 * HOUR))
    }

    /// Of moments in rising order, those that are kept: the last of each hour, day, week or month, by their age.
    fn thin(&self, moments: &[(u64, Timestamp)], now: Timestamp) -> Vec<u64> {
        let mut kept: Vec<(u64, (u64, i64))> = Vec::new();
        for (arrival, shown) in moments {
            let age = u64::try_from(now.secs.saturating_sub(shown.secs)).unwrap_or(0);
            let Some(every) = self.every(age) else { continue };
            let part = (every, shown.secs.div_euclid(every.cast_signed()));
            match kept.last_mut() {
                Some(last) if last.1 == part => last.0 = *arrival,
                _ => kept.push((*arrival, part)),
            }
        }
        kept.into_iter().map(|(arrival, _)| arrival).collect()
    }
}

/// What thinning came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thinned {
    /// Rows of the history that went.
    pub rows: u64,
    /// Moments kept of the time of which not everything is.
    pub moments: usize,
}

impl Volume {
    /// Drops what of history is not to be kept any longer. `pinned` are arrivals that are kept whatever their age. With
    /// `over` the older half of what is kept beyond [`Retention::keep_all`] goes as well: history takes more room than it may.
    /// In small steps with `pace` between them, until that is false.
    ///
    /// # Errors
    /// The disk fails, or the store is damaged.
    pub fn thin(
        &self,
        keep: &Retention,
        pinned: &[u64],
        over: bool,
        pace: &mut dyn FnMut() -> bool,
    ) -> Result<Thinned> {
        // Who tells what is kept must be who drops the rest.
        let _turn = self.inner.reclaiming.lock();
        let now = self.inner.clock.now();
        let before = self.inner.core.lock().moments.clone();
        // Whoever may set it must not be able to have everything gone before anybody has noticed.
        let all = keep.keep_all.max(DAY);
        let window = self.inner.core.lock().arrival_at(now.before(all))?.max(before.thinned_to);
        let mut moments = Vec::new();
        for arrival in &before.kept {
            moments.push((*arrival, self.inner.core.lock().shown_since(*arrival)?));
        }
        // Of what is thinned out for the first time, the last of each hour.
        let mut at = before.thinned_to;
        if at > 0 {
            moments.push((at, self.inner.core.lock().shown_since(at)?));
        }
        while at < window && pace() {
            let core = self.inner.core.lock();
            let next = core.shown_since(at + 1)?;
            let hour = next.secs.div_euclid(HOUR.cast_signed());
            let last = Timestamp { secs: (hour + 1) * HOUR.cast_signed() - 1, nanos: 999_999_999 };
            at = core.arrival_at(last)?.clamp(at + 1, window);
            moments.push((at, core.shown_since(at)?));
        }
        if at < window {
            return Ok(Thinned { rows: 0, moments: before.kept.len() });
        }
        let mut kept: BTreeSet<u64> = keep.thin(&moments, now).into_iter().collect();
        kept.retain(|arrival| !pinned.contains(arrival));
        if over {
            kept = kept.iter().copied().skip(kept.len().div_ceil(2)).collect();
        }
        // Not one whose rows are gone already.
        kept.extend(pinned.iter().filter(|arrival| before.at(**arrival) == Some(**arrival)));
        kept.retain(|arrival| (before.from..window).contains(arrival));
        let after = Moments { from: before.from, thinned_to: window, kept: kept.into_iter().collect() };
        let thinned = Thinned { rows: 0, moments: after.kept.len() };
        if after == before {
            return Ok(thinned);
        }
        self.inner.core.lock().set_moments(after.clone())?;
        Ok(Thinned { rows: self.drop_rows(&after, pace)?, ..thinned })
    }

    /// Whether the clock is to be believed: what is dropped for a date that was wrong is gone. After a date that is more
    /// than a week beyond the last one, or before it, a day goes by first. To be asked now and then, and each time before
    /// [`Self::thin`].
    ///
    /// # Errors
    /// The disk failed.
    pub fn clock_is_steady(&self) -> Result<bool> {
        let now = self.inner.clock.now().secs;
        let core = self.inner.core.lock();
        let known: Option<(i64, i64)> = match core.store.get(Space::Meta, CLOCK)? {
            Some(bytes) => Some(decode_row("the clock", &bytes)?),
            None => None,
        };
        let steady_from = match known {
            Some((last, from)) if (last..=last.saturating_add(JUMP)).contains(&now) => from,
            Some(_) => now.saturating_add(DAY.as_secs().cast_signed()),
            None => now,
        };
        let mut batch = Batch::new();
        core.store.put(&mut batch, Space::Meta, CLOCK, &encode(&(now, steady_from)));
        core.store.apply(batch)?;
        Ok(now >= steady_from)
    }

    /// Drops the rows that no moment needs.
    fn drop_rows(&self, moments: &Moments, pace: &mut dyn FnMut() -> bool) -> Result<u64> {
        let store = &self.inner.store;
        let mut dropped = 0;
        let mut from = Vec::new();
        // The row of an attribute doesn't say since when it was so: since the one before it ended.
        let mut before: Option<(Vec<u8>, u64)> = None;
        loop {
            let rows = store.raw().scan(Space::History, &from, &[], STEP)?;
            let Some((last, _)) = rows.last() else { return Ok(dropped) };
            from = [last.as_slice(), &[0]].concat();
            let mut batch = Batch::new();
            for (key, sealed) in rows {
                // What is damaged stays for `verify` to find.
                let Ok(plain) = store.open(Space::History, &key, &sealed) else { continue };
                let Some((mut since, until)) = span(&key, &plain) else { continue };
                let row = &key[..key.len() - 8];
                if let Some((_, ended)) = before.as_ref().filter(|(of, _)| since == 0 && of == row) {
                    since = *ended;
                }
                before = Some((row.to_vec(), until));
                if !moments.need(since, until) {
                    batch.remove(Space::History, key);
                    dropped += 1;
                }
            }
            store.apply(batch)?;
            if !pace() {
                return Ok(dropped);
            }
        }
    }
}

impl Core {
    /// Says from now on that these moments can be read.
    pub(crate) fn set_moments(&mut self, moments: Moments) -> Result<()> {
        let mut batch = Batch::new();
        self.store.put(&mut batch, Space::Meta, Moments::KEY, &encode(&moments));
        self.store.apply(batch)?;
        self.moments = moments;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Budget;

    #[test]
    fn fewer_and_fewer_moments_are_kept() {
        let keep = Retention {
            keep_all: 30 * DAY,
            hourly: 60 * DAY,
            daily: 365 * DAY,
            weekly: 3 * 365 * DAY,
            monthly: Some(5 * 365 * DAY),
            budget: Budget::Share(25),
        };
        let now = Timestamp { secs: 2_000_000_000, nanos: 0 };
        // Every twenty minutes for seven years, up to 30 days ago.
        let from = 30 * 24 * 3600;
        let moments: Vec<(u64, Timestamp)> = (0..7 * 365 * 72_u64)
            .rev()
            .map(|back| Timestamp { secs: now.secs - from - back.cast_signed() * 1200, nanos: 0 })
            .zip(1..)
            .map(|(shown, arrival)| (arrival, shown))
            .collect();
        let shown = |arrival: &u64| moments[*arrival as usize - 1].1;
        let kept = keep.thin(&moments, now);
        let of = |from: i64, to: i64| {
            let ages = kept.iter().map(|arrival| (now.secs - shown(arrival).secs) / 86_400);
            ages.filter(|age| (from..to).contains(age)).count()
        };
        assert!((719..=721).contains(&of(30, 60)), "{}", of(30, 60));
        assert!((304..=307).contains(&of(60, 365)), "{}", of(60, 365));
        assert!((103..=106).contains(&of(365, 3 * 365)), "{}", of(365, 3 * 365));
        assert!((24..=26).contains(&of(3 * 365, 5 * 365)), "{}", of(3 * 365, 5 * 365));
        assert_eq!(of(5 * 365 + 1, 10 * 365), 0);
        // What is kept stays so when it is looked at again.
        let again: Vec<_> = kept.iter().map(|arrival| (*arrival, shown(arrival))).collect();
        assert_eq!(keep.thin(&again, now), kept);
    }
}
