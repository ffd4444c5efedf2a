//! Free ports on loopback.
//!
//! They are taken below the range the system hands to outgoing connections: while a server is down, a client that
//! keeps dialling its port could otherwise be given that very port as its own, and the restart would find it taken. For the same
//! reason a process gives out each port once: that of a server which is down now is still another test's.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{LazyLock, Mutex, PoisonError};

const LOWEST: u16 = 20_000;
const COUNT: u16 = 12_000;
const TRIES: u64 = 200;

static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A port nobody listens on now, and that was not given out before. Another process may still take it first: retry when the
/// server cannot bind it.
#[must_use]
pub fn free() -> Option<u16> {
    let random = RandomState::new();
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    (0..TRIES)
        .map(|attempt| LOWEST + u16::try_from(random.hash_one(attempt) % u64::from(COUNT)).unwrap_or(0))
        .find(|port| is_free(*port) && given.insert(*port))
}

pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_out_twice() {
        let ports: Vec<u16> = (0..1_000).filter_map(|_| free()).collect();
        let different: HashSet<u16> = ports.iter().copied().collect();
        assert_eq!((ports.len(), different.len()), (1_000, 1_000));
    }
}
