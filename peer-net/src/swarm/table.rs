//! Who is connected and who is known: the swarm's memory, without I/O.
//!
//! Invariants: at most one link per device, none to this device; bounded numbers of devices and of addresses for each.
//! Whoever has the discovery key can invent devices: those that aren't members count apart, and keep no member away.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crypto::DeviceId;
use quinn::Connection;
use tokio::sync::Notify;
use volume::sync::Session;

use super::KnownPeer;

/// How many members are remembered.
const MAX_KNOWN: usize = 1024;
/// And how many others: some may turn out to be members whose admission isn't known here yet.
const MAX_STRANGERS: usize = 64;
/// How many addresses of each.
const MAX_PLACES: usize = 24;
/// With so many connections to members there is no need for more of one's own making; others may still call.
const ENOUGH: usize = 64;
/// How long a device that misbehaved is not talked to; each time twice as long as the last, up to a day.
const BARRED_FOR: Duration = Duration::from_secs(60);
const BARRED_FOR_MOST: Duration = Duration::from_secs(24 * 3600);
/// What it did is forgotten so long after it may come again.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3600);
/// How many such devices are remembered.
const MAX_BARRED: usize = 1024;
/// Two connections between the same devices that are no older than this were dialled by both at once. A later one
/// means that its dialler has lost the earlier: nobody dials a device it is connected to.
const SAME_TIME: Duration = Duration::from_secs(5);

/// A connection in use.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) device: DeviceId,
    pub(super) connection: Connection,
    pub(super) session: Arc<Session>,
    /// Whether the device is known to be a member.
    pub(super) member: bool,
    /// Whether this side dialled.
    pub(super) dialled: bool,
    pub(super) at: Instant,
}

struct Known {
    /// The likeliest first.
    places: Vec<SocketAddr>,
    /// Whether the device is known to be a member.
    member: bool,
    /// Wakes the device's dialler.
    wake: Arc<Notify>,
}

pub(super) struct Table {
    me: DeviceId,
    links: BTreeMap<DeviceId, Link>,
    known: BTreeMap<DeviceId, Known>,
    /// Who misbehaved, until when it is not talked to, and how long that was the last time.
    barred: BTreeMap<DeviceId, (Instant, Duration)>,
}

impl Table {
    pub(super) fn new(me: DeviceId) -> Self {
        Self { me, links: BTreeMap::new(), known: BTreeMap::new(), barred: BTreeMap::new() }
    }

    /// Takes a link in. Gives the one it replaces, or the new one back if the old one stays.
    pub(super) fn connect(&mut self, link: Link) -> Result<Option<Link>, Box<Link>> {
        if let Some(old) = self.links.get(&link.device) {
            let at_once = link.at.saturating_duration_since(old.at) < SAME_TIME;
            if !replaces(&self.me, &link.device, old.dialled, link.dialled, at_once)
                && old.connection.close_reason().is_none()
            {
                return Err(Box::new(link));
            }
        }
        Ok(self.links.insert(link.device, link))
    }

    /// Lets a link go, if it still is the device's; wakes the dialler (who, if it dialled, knows by itself).
    pub(super) fn disconnect(&mut self, device: &DeviceId, stable_id: usize) -> bool {
        if self.links.get(device).is_none_or(|link| link.connection.stable_id() != stable_id) {
            return false;
        }
        let enough = self.members_connected() >= ENOUGH;
        let called = self.links.remove(device).is_some_and(|link| !link.dialled);
        let wanted_again = enough && self.members_connected() < ENOUGH;
        for (known_device, known) in &self.known {
            if wanted_again || (called && known_device == device) {
                known.wake.notify_one();
            }
        }
        true
    }

    pub(super) fn members_connected(&self) -> usize {
        self.links.values().filter(|link| link.member).count()
    }

    /// Notes that a device is known to be a member.
    pub(super) fn note_member(&mut self, device: &DeviceId) {
        if let Some(link) = self.links.get_mut(device) {
            link.member = true;
        }
        if let Some(known) = self.known.get_mut(device) {
            known.member = true;
        }
    }

    /// Whether a device is to be dialled.
    pub(super) fn wants(&self, device: &DeviceId) -> bool {
        !self.is_connected(device) && self.members_connected() < ENOUGH
    }

    /// Notes that a device misbehaved at `now`.
    pub(super) fn bar(&mut self, device: DeviceId, now: Instant) {
        self.barred.retain(|_, (until, _)| now.saturating_duration_since(*until) < FORGOTTEN_AFTER);
        if self.barred.len() >= MAX_BARRED {
            let first = self.barred.iter().min_by_key(|(_, (until, _))| *until).map(|(device, _)| *device);
            first.and_then(|first| self.barred.remove(&first));
        }
        let time = self.barred.get(&device).map_or(BARRED_FOR, |(_, last)| (*last * 2).min(BARRED_FOR_MOST));
        self.barred.insert(device, (now + time, time));
    }

    /// Whether a device misbehaved lately.
    pub(super) fn is_barred(&self, device: &DeviceId, now: Instant) -> bool {
        self.barred.get(device).is_some_and(|(until, _)| now < *until)
    }

    pub(super) fn is_connected(&self, device: &DeviceId) -> bool {
        self.links.contains_key(device)
    }

    pub(super) fn links(&self) -> Vec<Link> {
        self.links.values().cloned().collect()
    }

    pub(super) fn take_links(&mut self) -> Vec<Link> {
        std::mem::take(&mut self.links).into_values().collect()
    }

    pub(super) fn known(&self) -> Vec<KnownPeer> {
        let all = self.known.iter();
        all.map(|(device, known)| KnownPeer { device: *device, addresses: known.places.clone() }).collect()
    }

    /// Notes addresses of a device, the newest ones first. Gives what wakes its dialler if it is a device to start
    /// one for. The dialler there is is woken if the device is `back`, or may be at an address not tried before.
    pub(super) fn heard_of(
        &mut self,
        device: DeviceId,
        member: bool,
        addresses: &[SocketAddr],
        back: bool,
    ) -> Option<Arc<Notify>> {
        let dialable = addresses.iter().filter(|address| address.port() != 0 && !address.ip().is_unspecified());
        let fresh: Vec<SocketAddr> = dialable.copied().collect();
        if device == self.me || fresh.is_empty() {
            return None;
        }
        if let Some(known) = self.known.get_mut(&device) {
            let news = back || fresh.iter().any(|address| !known.places.contains(address));
            let old = std::mem::take(&mut known.places);
            known.places = merged(fresh, &old);
            known.member |= member;
            if news && !self.links.contains_key(&device) {
                known.wake.notify_one();
            }
            return None;
        }
        let alike = self.known.values().filter(|known| known.member == member).count();
        if alike >= if member { MAX_KNOWN } else { MAX_STRANGERS } {
            log::debug!("device {}: too many devices known to remember it", device.short());
            return None;
        }
        let wake = Arc::new(Notify::new());
        self.known.insert(device, Known { places: merged(fresh, &[]), member, wake: wake.clone() });
        Some(wake)
    }

    /// Returns where to dial a device.
    pub(super) fn places(&self, device: &DeviceId) -> Vec<SocketAddr> {
        self.known.get(device).map(|known| known.places.clone()).unwrap_or_default()
    }

    /// Puts the address that answered first.
    pub(super) fn answered(&mut self, device: &DeviceId, address: SocketAddr) {
        if let Some(known) = self.known.get_mut(device) {
            let old = std::mem::take(&mut known.places);
            known.places = merged(vec![address], &old);
        }
    }

    /// Forgets a device that proved to be nobody of ours.
    pub(super) fn forget(&mut self, device: &DeviceId) {
        self.known.remove(device);
    }
}

/// Whether a new connection takes the place of an old one: the same answer on both sides.
fn replaces(me: &DeviceId, them: &DeviceId, old_dialled: bool, new_dialled: bool, at_once: bool) -> bool {
    let lesser_dialled_new = if me < them { new_dialled } else { !new_dialled };
    !at_once || old_dialled == new_dialled || lesser_dialled_new
}

fn merged(first: Vec<SocketAddr>, then: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> = Vec::with_capacity(first.len() + then.len());
    for address in first.iter().chain(then) {
        if all.len() < MAX_PLACES && !all.contains(address) {
            all.push(*address);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: DeviceId = DeviceId::from_bytes([1; 32]);
    const HIGH: DeviceId = DeviceId::from_bytes([2; 32]);

    fn place(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn both_sides_keep_the_connection_that_the_lesser_dialled() {
        // Of the connections `by_low` and `by_high`, each side sees either one first.
        for low_first_is_by_low in [true, false] {
            let old_dialled = low_first_is_by_low;
            assert_eq!(replaces(&LOW, &HIGH, old_dialled, !old_dialled, true), !low_first_is_by_low);
            // On the other side the same connection was dialled by the other one.
            assert_eq!(replaces(&HIGH, &LOW, !old_dialled, old_dialled, true), !low_first_is_by_low);
        }
    }

    #[test]
    fn a_device_that_dials_again_later_has_lost_the_old_connection() {
        assert!(replaces(&LOW, &HIGH, true, false, false));
        assert!(replaces(&HIGH, &LOW, true, true, true), "the same side dialled twice");
    }

    #[test]
    fn addresses_are_bounded_with_the_newest_first() {
        let mut table = Table::new(LOW);
        assert!(table.heard_of(LOW, true, &[place(1)], false).is_none(), "this device itself");
        assert!(table.heard_of(HIGH, true, &[place(0), "0.0.0.0:5".parse().unwrap()], false).is_none(), "nowhere");
        assert!(table.heard_of(HIGH, true, &[place(1), place(2)], false).is_some());
        assert!(table.heard_of(HIGH, true, &[place(3), place(2)], false).is_none(), "known already");
        assert_eq!(table.places(&HIGH), [place(3), place(2), place(1)]);
        table.answered(&HIGH, place(1));
        assert_eq!(table.places(&HIGH)[0], place(1));
        for port in 10..100 {
            table.heard_of(HIGH, true, &[place(port)], false);
        }
        assert_eq!(table.places(&HIGH).len(), MAX_PLACES);
        assert_eq!(table.places(&HIGH)[0], place(99));
    }

    #[test]
    fn who_misbehaved_is_barred_for_a_minute_and_then_longer() {
        let mut table = Table::new(LOW);
        let start = Instant::now();
        table.bar(HIGH, start);
        assert!(table.is_barred(&HIGH, start + Duration::from_secs(59)));
        assert!(!table.is_barred(&HIGH, start + Duration::from_secs(61)));
        assert!(!table.is_barred(&LOW, start));
        let again = start + Duration::from_secs(100);
        table.bar(HIGH, again);
        assert!(table.is_barred(&HIGH, again + Duration::from_secs(119)));
        assert!(!table.is_barred(&HIGH, again + Duration::from_secs(121)));
        (0..20).for_each(|_| table.bar(HIGH, again));
        assert!(!table.is_barred(&HIGH, again + BARRED_FOR_MOST + Duration::from_secs(1)));
        // Long after that it begins anew.
        let later = again + 3 * BARRED_FOR_MOST;
        table.bar(LOW, later);
        table.bar(HIGH, later);
        assert!(!table.is_barred(&HIGH, later + Duration::from_secs(61)));
    }

    #[test]
    fn the_number_of_devices_is_bounded() {
        let mut table = Table::new(LOW);
        let device = |n: u32| {
            let mut id = [7; 32];
            id[..4].copy_from_slice(&n.to_le_bytes());
            DeviceId::from_bytes(id)
        };
        let taken = |table: &mut Table, from: u32, member| {
            (from..from + 2000).filter(|n| table.heard_of(device(*n), member, &[place(1)], false).is_some()).count()
        };
        assert_eq!(taken(&mut table, 0, false), MAX_STRANGERS);
        assert_eq!(taken(&mut table, 10_000, true), MAX_KNOWN, "whoever invents devices keeps no member away");
        // One that proves to be a member leaves room for another that may be one.
        table.note_member(&device(0));
        assert_eq!(taken(&mut table, 20_000, false), 1);
    }
}
