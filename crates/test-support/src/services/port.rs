//! Free ports on loopback.
//!
//! They are taken below the range the system hands to outgoing connections: while a server is down, a client that
//! keeps dialling its port could otherwise be given that very port as its own, and the restart would find it taken.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{Ipv4Addr, TcpListener};

const LOWEST: u16 = 20_000;
const COUNT: u16 = 12_000;
const TRIES: u64 = 200;

/// A port nobody listens on now. Another process may still take it first: retry when the server cannot bind it.
#[must_use]
pub fn free() -> Option<u16> {
    let random = RandomState::new();
    (0..TRIES)
        .map(|attempt| LOWEST + u16::try_from(random.hash_one(attempt) % u64::from(COUNT)).unwrap_or(0))
        .find(|port| is_free(*port))
}

pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
