//! Tickets for sockets.

use gravity_domain::auth::Principal;
use gravity_domain::chat::{Ticket, TicketHolder, Tickets};
use gravity_domain::clock::Timestamp;
use gravity_domain::error::StoreError;
use std::sync::Arc;

/// `POST /api/chat/ws-tickets`.
pub struct IssueTicket {
    tickets: Arc<dyn Tickets>,
}

impl IssueTicket {
    /// Over this port.
    pub fn new(tickets: Arc<dyn Tickets>) -> Self {
        Self { tickets }
    }

    /// A ticket for whoever shows a token that is good until `expires_at`.
    ///
    /// # Errors
    /// The store could not answer.
    pub async fn run(&self, principal: Principal, expires_at: Timestamp) -> Result<Ticket, StoreError> {
        let holder = TicketHolder {
            principal,
            expires_at,
        };
        self.tickets.issue(holder).await
    }
}

/// `?ticket=` of a socket.
pub struct RedeemTicket {
    tickets: Arc<dyn Tickets>,
}

impl RedeemTicket {
    /// Over this port.
    pub fn new(tickets: Arc<dyn Tickets>) -> Self {
        Self { tickets }
    }

    /// Spends the ticket; `None` for one that is not good.
    ///
    /// # Errors
    /// The store could not answer.
    pub async fn run(&self, ticket: &Ticket) -> Result<Option<TicketHolder>, StoreError> {
        self.tickets.redeem(ticket).await
    }
}
