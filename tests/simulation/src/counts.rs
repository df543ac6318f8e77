//! How often what happened: proof that a run exercised what it claims to.

use std::collections::BTreeMap;

/// By kind of event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    /// It happened.
    pub fn add(&mut self, what: &'static str) {
        self.many(what, 1);
    }

    /// It happened `times` times.
    pub fn many(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    /// How often.
    pub fn get(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// Adds another run's.
    pub fn join(&mut self, other: &Counts) {
        for (what, times) in &other.0 {
            self.many(what, *times);
        }
    }

    /// All that ever happened, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().map(|(what, times)| (*what, *times))
    }
}
