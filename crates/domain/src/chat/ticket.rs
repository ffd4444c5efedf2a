//! Tickets: what a browser opens a socket with, which can send no header.

use crate::auth::Principal;
use crate::clock::Timestamp;
use std::fmt;

/// A ticket: 32 random bytes in base64url. Good once, for [`Ticket::SECONDS`]. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket(String);

impl Ticket {
    /// How long one is good, in seconds.
    pub const SECONDS: u64 = 30;

    /// From its text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket(…)")
    }
}

/// Whom a ticket lets in, and until when the token that it was bought with is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TicketHolder {
    /// Who.
    pub principal: Principal,
    /// The end of the token: the socket's authentication ends then, unless it is refreshed.
    pub expires_at: Timestamp,
}
