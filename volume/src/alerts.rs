//! Alerts: what the log gave away, until somebody has looked.
//!
//! Rows of the store, so that a restart loses none. What one party does over and over is one alert that counts.

use std::{cmp::Reverse, collections::BTreeMap};

use serde::{Deserialize, Serialize};

use crate::{
    Volume,
    audit::{Act, Finding, Kind, Op, Sure},
    commit::encode,
    core::decode_row,
    error::Result,
    store::{Batch, Space, prefix_end},
    time::Timestamp,
};

/// Of alerts, by number.
const ALERTS: &[u8] = b"alert/";
/// As many are kept; the oldest go.
const KEPT: usize = 1000;

/// An alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Its number.
    pub n: u64,
    /// What was noticed.
    pub kind: Kind,
    /// How sure it is.
    pub sure: Sure,
    /// Whose doing: a device in hexadecimal, an address or a program.
    pub who: String,
    /// The user, if it is one.
    pub user: Option<String>,
    /// What happened, in words; the last time.
    pub text: String,
    /// The command that answers it.
    pub answer: String,
    /// When first.
    pub first: Timestamp,
    /// When last.
    pub last: Timestamp,
    /// How often.
    pub count: u64,
    /// Somebody has looked.
    pub acknowledged: bool,
}

/// Called with every new alert.
pub type OnAlert = Box<dyn Fn(&Alert) + Send + Sync>;

impl Volume {
    /// Has `tell` called with every alert that is new from now on. Once; it must be quick.
    pub fn on_alert(&self, tell: OnAlert) {
        let _ = self.inner.on_alert.set(tell);
    }

    /// How many alerts there are that nobody has looked at, by kind. Reads them only when there may be other ones than the last
    /// time.
    ///
    /// # Errors
    /// The disk failed.
    pub fn open_alerts(&self) -> Result<BTreeMap<Kind, u64>> {
        let mut known = self.inner.open_alerts.lock();
        if let Some(counts) = &*known {
            return Ok(counts.clone());
        }
        let mut counts = BTreeMap::new();
        for alert in self.alerts()?.iter().filter(|alert| !alert.acknowledged) {
            *counts.entry(alert.kind).or_default() += 1;
        }
        Ok(known.insert(counts).clone())
    }

    /// Alerts, the oldest first.
    ///
    /// # Errors
    /// The disk failed.
    pub fn alerts(&self) -> Result<Vec<Alert>> {
        let rows = self.inner.store.scan(Space::Meta, ALERTS, &prefix_end(ALERTS), usize::MAX)?;
        rows.iter().map(|(_, row)| decode_row("an alert", row)).collect()
    }

    /// Raises an alert, or counts one more of it. Tells whether it is new.
    ///
    /// # Errors
    /// The disk failed.
    pub fn raise(&self, found: Finding) -> Result<bool> {
        // One at a time: the lock is the core's, as for all rows.
        let core = self.inner.core.lock();
        let (all, now) = (self.alerts()?, core.now());
        let mut batch = Batch::new();
        let known = all
            .iter()
            .rfind(|alert| !alert.acknowledged && (alert.kind, alert.who.as_str()) == (found.kind, found.who.as_str()));
        // What is surer now than when it was told is told anew.
        let is_new = known.is_none_or(|known| found.sure > known.sure);
        let adds = known.is_none();
        let alert = match known {
            Some(known) => Alert {
                sure: known.sure.max(found.sure),
                text: found.text,
                answer: found.answer,
                last: now,
                count: known.count + 1,
                ..known.clone()
            },
            None => Alert {
                n: all.last().map_or(1, |last| last.n + 1),
                kind: found.kind,
                sure: found.sure,
                who: found.who,
                user: found.user,
                text: found.text,
                answer: found.answer,
                first: now,
                last: now,
                count: 1,
                acknowledged: false,
            },
        };
        self.put_alert(&mut batch, &alert);
        // Those that somebody has looked at go first, then those of which there are most, then the least sure: nobody pushes
        // out what is proven, or what keeps history from being dropped, with more of theirs.
        let mut of_kind: BTreeMap<Kind, usize> = BTreeMap::new();
        all.iter().for_each(|old| *of_kind.entry(old.kind).or_default() += 1);
        let keeps = |old: &Alert| old.kind == Kind::MassChange && !old.acknowledged;
        let mut worth: Vec<&Alert> = all.iter().filter(|old| old.n != alert.n).collect();
        worth.sort_by_key(|old| {
            (keeps(old), !old.acknowledged, Reverse(of_kind.get(&old.kind).copied()), old.sure, old.n)
        });
        for old in worth.into_iter().take((all.len() + usize::from(adds)).saturating_sub(KEPT)) {
            batch.remove(Space::Meta, key(old.n));
        }
        self.inner.store.apply(batch)?;
        self.inner.open_alerts.lock().take();
        drop(core);
        if is_new {
            if let Some(audit) = self.audit() {
                audit.record(Act { note: Some(alert.text.clone()), ..self.own_act(Op::Alert) });
            }
            if let Some(tell) = self.inner.on_alert.get() {
                tell(&alert);
            }
        }
        Ok(is_new)
    }

    /// Notes that somebody has looked at an alert, or at all. Tells how many that are.
    ///
    /// # Errors
    /// The disk failed.
    pub fn acknowledge_alerts(&self, which: Option<u64>) -> Result<u64> {
        let core = self.inner.core.lock();
        let mut batch = Batch::new();
        let mut done = 0;
        for alert in self.alerts()? {
            if !alert.acknowledged && which.is_none_or(|n| n == alert.n) {
                self.put_alert(&mut batch, &Alert { acknowledged: true, ..alert });
                done += 1;
            }
        }
        self.inner.store.apply(batch)?;
        self.inner.open_alerts.lock().take();
        drop(core);
        Ok(done)
    }

    fn put_alert(&self, batch: &mut Batch, alert: &Alert) {
        self.inner.store.put(batch, Space::Meta, key(alert.n), &encode(alert));
    }
}

fn key(n: u64) -> Vec<u8> {
    [ALERTS, &n.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
        time::Duration,
    };

    use crypto::{DeviceKeys, Entropy, SeededEntropy, SymmetricKey, UserKeys};

    use super::*;
    use crate::{Clock, Parts, content::MemoryBlocks, memory_store::MemoryStore};

    struct Still;

    impl Clock for Still {
        fn now(&self) -> Timestamp {
            Timestamp { secs: 1_795_338_900, nanos: 0 }
        }

        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
    }

    fn volume() -> Volume {
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(1));
        let parts = Parts {
            store: Arc::new(MemoryStore::new()),
            blocks: Arc::new(MemoryBlocks::new()),
            clock: Arc::new(Still),
            secret: SymmetricKey::generate(&*entropy),
            device: DeviceKeys::generate(&*entropy),
            user: UserKeys::generate(&*entropy),
            archive: None,
            directory: None,
            entropy,
        };
        Volume::found(parts, "alice").unwrap()
    }

    fn found(kind: Kind, who: &str) -> Finding {
        let (text, answer) = ("something".to_owned(), "p2pfs log".to_owned());
        Finding { kind, sure: Sure::Likely, who: who.to_owned(), user: None, text, answer }
    }

    #[test]
    fn what_is_new_is_told_and_what_is_open_is_counted() {
        let volume = volume();
        let told = Arc::new(AtomicU64::new(0));
        let count = told.clone();
        volume.on_alert(Box::new(move |alert| {
            assert_eq!(alert.count, 1);
            count.fetch_add(alert.n, Ordering::Relaxed);
        }));
        assert_eq!(volume.open_alerts().unwrap(), BTreeMap::new());
        assert!(volume.raise(found(Kind::Tickets, "10.0.0.1")).unwrap());
        assert!(!volume.raise(found(Kind::Tickets, "10.0.0.1")).unwrap(), "once more");
        assert!(volume.raise(found(Kind::Tickets, "10.0.0.2")).unwrap());
        assert!(volume.raise(found(Kind::Removed, "4f2a")).unwrap());
        assert_eq!(told.load(Ordering::Relaxed), 1 + 2 + 3, "each once");
        assert_eq!(volume.open_alerts().unwrap(), BTreeMap::from([(Kind::Tickets, 2), (Kind::Removed, 1)]));
        volume.acknowledge_alerts(Some(1)).unwrap();
        assert_eq!(volume.open_alerts().unwrap(), BTreeMap::from([(Kind::Tickets, 1), (Kind::Removed, 1)]));
        assert!(volume.raise(found(Kind::Tickets, "10.0.0.1")).unwrap(), "somebody had looked");
        assert_eq!(volume.open_alerts().unwrap()[&Kind::Tickets], 2);
    }
}
