//! Who is what, by the naivest means: all values on somebody, judged again each time somebody asks.

use crypto::{DeviceId, UserId};
use volume::member::Role;

use super::history::{Past, Rank, has};

/// What a value says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    /// A user was admitted with a device.
    Admitted { user: UserId, device: DeviceId, role: Role },
    /// A further device of a user was admitted.
    Further { user: UserId, device: DeviceId, exported: bool },
    /// A user is this from now on, or was removed.
    Is { user: UserId, role: Option<Role> },
    /// A device was removed.
    Expelled { device: DeviceId },
}

/// A value of what somebody is.
pub(super) struct Standing {
    pub(super) rank: Rank,
    /// The place of its commit in the order of all.
    pub(super) at: usize,
    pub(super) author: DeviceId,
    pub(super) says: Says,
    /// The standings that it superseded, directly or not, by their places among all.
    pub(super) over: Vec<usize>,
    /// Of a transfer of the ownership: the one that it follows, by its place among all.
    pub(super) follows: Option<usize>,
    /// It founds the volume.
    pub(super) founds: bool,
    /// With an exported key: the devices that invited to it, and where.
    pub(super) invited: Vec<(DeviceId, usize)>,
}

/// All of them, and what each commit's author had seen.
pub(super) struct Standings<'a> {
    pub(super) all: &'a [Standing],
    pub(super) pasts: &'a [Past],
}

impl Standings<'_> {
    fn user_of(&self, device: DeviceId, past: &Past) -> Option<UserId> {
        let admitted = self.all.iter().filter(|s| has(past, s.at));
        let mine = admitted.filter_map(|s| match s.says {
            Says::Admitted { user, device: of, .. } | Says::Further { user, device: of, .. } if of == device => {
                Some((s.rank, user))
            }
            _ => None,
        });
        mine.min().map(|(_, user)| user)
    }

    fn on(&self, of: UserId, within: &Past) -> Vec<(usize, Option<Role>)> {
        let mut found: Vec<(usize, Option<Role>)> = Vec::new();
        for (n, standing) in self.all.iter().enumerate().filter(|(_, s)| has(within, s.at)) {
            match standing.says {
                Says::Admitted { user, role, .. } if user == of => found.push((n, Some(role))),
                Says::Is { user, role } if user == of => found.push((n, role)),
                _ => {}
            }
        }
        found.sort_by_key(|(n, _)| self.all[*n].rank);
        found
    }

    fn is_admission(&self, n: usize) -> bool {
        matches!(self.all[n].says, Says::Admitted { .. })
    }

    /// Whether the commit at a place, by this device, counts as one by somebody with this role or more.
    pub(super) fn is_at_least(&self, device: DeviceId, at: usize, need: Role, within: &Past) -> bool {
        let past = &self.pasts[at];
        let Some(user) = self.user_of(device, past) else { return false };
        if need == Role::Owner && self.owner(past, None).is_some_and(|owner| owner != user) {
            return false;
        }
        let mut values = self.on(user, within);
        values.retain(|(n, _)| self.all[*n].at != at || self.is_admission(*n));
        let enough = |role: Option<Role>| role.is_some_and(|role| role >= need);
        let seen = |n: usize| has(past, self.all[n].at);
        if !values.iter().any(|(n, role)| enough(*role) && seen(*n) && self.counts(*n, within)) {
            return false;
        }
        let settled = self.settled(values.iter().map(|(n, _)| *n).filter(|n| seen(*n)).collect(), within);
        let counts = |n: usize| seen(n) && !settled.contains(&n) && self.counts(n, within);
        let counting: Vec<_> = values.iter().filter(|(n, _)| counts(*n)).collect();
        let live = |n: usize| !counting.iter().any(|(other, _)| self.all[*other].over.contains(&n));
        let live: Vec<_> = counting.iter().filter(|(n, _)| live(*n)).collect();
        let first_admission = live.iter().find(|(n, _)| self.is_admission(*n)).map(|(n, _)| *n);
        let says = |n: usize| !self.is_admission(n) || first_admission == Some(n);
        if live.iter().any(|(n, role)| says(*n) && !enough(*role)) {
            return false;
        }
        let apart = |n: usize| !seen(n) && !has(&self.pasts[self.all[n].at], at);
        let cut = values
            .iter()
            .any(|(n, role)| !self.is_admission(*n) && apart(*n) && !enough(*role) && self.counts(*n, within));
        !cut && self.stays(device, at, within)
    }

    /// Whether who made a commit may make a user this, by what they had seen.
    pub(super) fn may_make(&self, device: DeviceId, at: usize, past: &Past, of: UserId, role: Option<Role>) -> bool {
        let Some(author) = self.user_of(device, past) else { return false };
        if role == Some(Role::Owner) {
            return author != of && self.owner(past, None).or(self.founder()) == Some(author);
        }
        if author == of && role.is_none_or(|role| role < Role::Admin) {
            return true;
        }
        self.is_at_least(device, at, Role::Admin, past) && self.is_senior(author, of, at, past)
    }

    /// The same for the removal of a device.
    pub(super) fn may_expel(&self, device: DeviceId, at: usize, past: &Past, expelled: DeviceId) -> bool {
        let everything = vec![u64::MAX; past.len()];
        let users = (self.user_of(device, past), self.user_of(expelled, &everything));
        let (Some(author), Some(of)) = users else { return false };
        if author == of && (device == expelled || self.is_older(device, expelled)) {
            return true;
        }
        self.is_at_least(device, at, Role::Admin, past) && self.is_senior(author, of, at, past)
    }

    fn stays(&self, device: DeviceId, at: usize, within: &Past) -> bool {
        let past = &self.pasts[at];
        let mut on = self.all.iter().enumerate().filter(|(_, s)| has(within, s.at));
        let admitted = on.clone().any(|(n, s)| {
            matches!(s.says, Says::Admitted { device: of, .. } | Says::Further { device: of, .. } if of == device)
                && has(past, s.at)
                && self.counts(n, within)
        });
        let expelled = on
            .any(|(n, s)| s.says == Says::Expelled { device } && !has(&self.pasts[s.at], at) && self.counts(n, within));
        admitted && !expelled
    }

    fn counts(&self, n: usize, within: &Past) -> bool {
        let value = &self.all[n];
        if value.founds {
            return true;
        }
        let past = &self.pasts[value.at];
        let Some(author) = self.user_of(value.author, past) else { return false };
        let admin = || self.is_at_least(value.author, value.at, Role::Admin, within);
        match value.says {
            Says::Admitted { .. } => admin(),
            Says::Further { exported: false, .. } => self.is_at_least(value.author, value.at, Role::Reader, within),
            Says::Further { user, .. } => value.invited.iter().any(|(device, at)| {
                self.user_of(*device, &self.pasts[*at]) == Some(user)
                    && self.is_at_least(*device, *at, Role::Reader, within)
            }),
            Says::Is { role: Some(Role::Owner), .. } => self.chain(&self.transfers(within, None), within).contains(&n),
            Says::Is { user, .. } => (user == author || self.is_senior(author, user, value.at, within)) && admin(),
            Says::Expelled { device } => {
                let everything = vec![u64::MAX; past.len()];
                let Some(user) = self.user_of(device, &everything) else { return false };
                if user == author {
                    return (device == value.author || self.is_older(value.author, device))
                        && self.is_at_least(value.author, value.at, Role::Keeper, within);
                }
                self.is_senior(author, user, value.at, within) && admin()
            }
        }
    }

    fn is_older(&self, one: DeviceId, other: DeviceId) -> bool {
        let first = |device: DeviceId| {
            let lets_in = |s: &&Standing| matches!(s.says, Says::Admitted { device: of, .. } | Says::Further { device: of, .. } if of == device);
            let mine = self.all.iter().filter(lets_in);
            mine.map(|s| s.rank).min()
        };
        first(one) < first(other)
    }

    fn founder(&self) -> Option<UserId> {
        self.all.iter().find_map(|s| match s.says {
            Says::Admitted { user, .. } if s.founds => Some(user),
            _ => None,
        })
    }

    /// The owner by these commits, without those that had seen one; `None` when nobody ever handed over.
    fn owner(&self, within: &Past, beside: Option<usize>) -> Option<UserId> {
        if !self.all.iter().any(|s| matches!(s.says, Says::Is { role: Some(Role::Owner), .. })) {
            return None;
        }
        let chain = self.chain(&self.transfers(within, beside), within);
        chain.last().map_or_else(|| self.founder(), |n| Some(self.handed_to(*n)))
    }

    fn handed_to(&self, n: usize) -> UserId {
        match self.all[n].says {
            Says::Is { user, .. } => user,
            _ => unreachable!("a transfer"),
        }
    }

    /// All transfers of the ownership, the least first.
    fn transfers(&self, within: &Past, beside: Option<usize>) -> Vec<usize> {
        let hands_over = |s: &Standing| matches!(s.says, Says::Is { role: Some(Role::Owner), .. });
        let later = |s: &Standing| beside.is_some_and(|at| has(&self.pasts[s.at], at));
        let mut found: Vec<usize> = (0..self.all.len())
            .filter(|n| hands_over(&self.all[*n]) && has(within, self.all[*n].at) && !later(&self.all[*n]))
            .collect();
        found.sort_by_key(|n| self.all[*n].rank);
        found
    }

    /// Those of them that lead from the founder to an owner.
    fn chain(&self, transfers: &[usize], within: &Past) -> Vec<usize> {
        let mut chain: Vec<usize> = Vec::new();
        loop {
            let last = chain.last().copied();
            let owner = last.map_or_else(|| self.founder(), |n| Some(self.handed_to(n)));
            let follows = |n: &&usize| {
                let one = &self.all[**n];
                self.user_of(one.author, &self.pasts[one.at]) == owner
                    && Some(self.handed_to(**n)) != owner
                    && one.follows == last
                    && self.stays_own(one.author, one.at, within)
            };
            match transfers.iter().filter(|n| !chain.contains(*n)).find(follows) {
                Some(n) => chain.push(*n),
                None => return chain,
            }
        }
    }

    /// The transfer that made somebody the owner, by what one had seen.
    pub(super) fn last_transfer(&self, past: &Past) -> Option<usize> {
        self.chain(&self.transfers(past, None), past).pop()
    }

    /// What the last transfer among these had seen of them.
    fn settled(&self, values: Vec<usize>, within: &Past) -> Vec<usize> {
        let chain = self.chain(&self.transfers(within, None), within);
        let Some(last) = chain.into_iter().rfind(|n| values.contains(n)) else { return Vec::new() };
        let one = &self.all[last];
        let before = |n: &usize| match self.all[*n].at == one.at {
            true => self.all[*n].rank < one.rank,
            false => has(&self.pasts[one.at], self.all[*n].at),
        };
        values.into_iter().filter(before).collect()
    }

    /// Whether no older device of a user's cuts this commit of one.
    fn stays_own(&self, device: DeviceId, at: usize, within: &Past) -> bool {
        let past = &self.pasts[at];
        let elder = |one: DeviceId, at: usize| self.is_older(one, device) && self.stays_own(one, at, within);
        let mut on = self.all.iter().filter(|s| has(within, s.at));
        let admitted = on.clone().filter(|s| has(past, s.at)).any(|s| match s.says {
            Says::Admitted { device: of, .. } => of == device,
            Says::Further { device: of, exported: false, .. } => of == device && elder(s.author, s.at),
            Says::Further { user, device: of, .. } if of == device => {
                s.invited.iter().any(|(by, at)| self.user_of(*by, &self.pasts[*at]) == Some(user) && elder(*by, *at))
            }
            _ => false,
        });
        let user = self.user_of(device, past);
        let cut = on.any(|s| {
            s.says == Says::Expelled { device }
                && !has(&self.pasts[s.at], at)
                && self.user_of(s.author, &self.pasts[s.at]) == user
                && (s.author == device || elder(s.author, s.at))
        });
        admitted && !cut
    }

    fn is_senior(&self, user: UserId, other: UserId, at: usize, within: &Past) -> bool {
        if let Some(owner) = self.owner(within, Some(at))
            && (owner == user || owner == other)
        {
            return owner == user;
        }
        let admin = |(_, role): &(usize, Option<Role>)| role.is_some_and(|role| role >= Role::Admin);
        let theirs: Vec<_> = self.on(other, within).into_iter().filter(admin).collect();
        for (mine, _) in self.on(user, within).into_iter().filter(admin) {
            let before = theirs.iter().filter(|(n, _)| self.all[*n].rank < self.all[mine].rank);
            if before.map(|(n, _)| *n).any(|n| self.counts(n, within)) {
                return false;
            }
            if self.counts(mine, within) {
                return true;
            }
        }
        false
    }
}
