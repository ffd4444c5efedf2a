//! Rate limits.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// At most `limit` calls in any `window`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// A stable name for keys, headers and metrics: `login_address`, `login_username`, `register_address`.
    pub name: &'static str,
    /// Calls allowed; 0 refuses all.
    pub limit: u32,
    /// The length of the sliding window.
    pub window: Duration,
}

/// What a limiter says about one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateDecision {
    /// Whether the call may go on; a refused one does not count.
    pub allowed: bool,
    /// The quota asked.
    pub quota: Quota,
    /// Calls left in the window.
    pub remaining: u32,
    /// For an allowed call: until the whole quota is free again. For a refused one: until the next call is allowed.
    pub reset: Duration,
}

impl RateDecision {
    /// For `Retry-After`: whole seconds, at least 1.
    pub fn retry_after_seconds(&self) -> u64 {
        seconds_up(self.reset)
    }
}

/// Whole seconds, rounded up, at least 1.
pub fn seconds_up(duration: Duration) -> u64 {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    seconds.max(1)
}

/// The network that one client is known by: an IPv4 address itself, the /64 of an IPv6 one; mapped IPv4 counts as IPv4.
pub fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_client_is_known_by_its_64_bit_network_and_mapped_ipv4_by_itself() {
        let network = |text: &str| client_network(text.parse().unwrap()).to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(network("192.0.2.7"), "192.0.2.7");
    }

    #[test]
    fn seconds_are_rounded_up_and_at_least_one() {
        assert_eq!(seconds_up(Duration::ZERO), 1);
        assert_eq!(seconds_up(Duration::from_millis(1_001)), 2);
    }
}
