//! What one client, and all together, may take.

use std::time::Duration;

use peer_net::registry_protocol::{LEASE, MAX_ADDRESSES, MAX_RECORDS_PER_TOKEN, MAX_TOKENS};

/// Bounds of everything that callers can make grow.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How long a record stays unless renewed.
    pub lease: Duration,
    /// Tokens of one client, offered and watched together.
    pub tokens: usize,
    /// Addresses of one record.
    pub addresses: usize,
    /// Records of one token.
    pub records_per_token: usize,
    /// Records in all: with the sizes above, under 100 MB.
    pub records: usize,
    /// Connected clients in all.
    pub clients: usize,
    /// Connections from one IP address (behind which may be a whole office).
    pub clients_per_ip: usize,
    /// Messages a client may send at once after a silence…
    pub burst: u32,
    /// …and how long it takes for one more to be allowed.
    pub pace: Duration,
    /// Notices waiting for a client that doesn't read them, before it is dropped.
    pub queue: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lease: LEASE,
            tokens: MAX_TOKENS,
            addresses: MAX_ADDRESSES,
            records_per_token: MAX_RECORDS_PER_TOKEN,
            records: 100_000,
            clients: 16_384,
            clients_per_ip: 512,
            burst: 20,
            pace: Duration::from_secs(1),
            queue: 1024,
        }
    }
}

/// Allows `burst` at once and one more per `pace`.
#[derive(Debug)]
pub(crate) struct Pacer {
    burst: u32,
    pace: Duration,
    /// When the pacer would be full again, on the caller's monotonic clock.
    full_at: Duration,
}

impl Pacer {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { burst: limits.burst, pace: limits.pace, full_at: Duration::ZERO }
    }

    /// Whether one more is allowed at `now`.
    pub(crate) fn allow(&mut self, now: Duration) -> bool {
        let full_at = self.full_at.max(now) + self.pace;
        let allowed = full_at - now <= self.pace * self.burst;
        if allowed {
            self.full_at = full_at;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_one_per_pace() {
        let second = Duration::from_secs(1);
        let mut pacer = Pacer::new(&Limits { burst: 3, pace: second, ..Limits::default() });
        let passed = (0..10).filter(|_| pacer.allow(second * 100)).count();
        assert_eq!(passed, 3);
        assert!(pacer.allow(second * 101));
        assert!(!pacer.allow(second * 101));
        let passed = (0..10).filter(|_| pacer.allow(second * 200)).count();
        assert_eq!(passed, 3);
    }
}
