//! Tickets in this process, for a node without Redis. Bounded: the oldest makes room.

use super::redis_tickets::{TicketHash, fresh, hash};
use async_trait::async_trait;
use gravity_domain::chat::{Ticket, TicketHolder, Tickets};
use gravity_domain::error::StoreError;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

const LIFE: Duration = Duration::from_secs(Ticket::SECONDS);

#[derive(Default)]
struct Table {
    holders: HashMap<TicketHash, TicketHolder>,
    /// In the order in which they end, spent ones too.
    ending: VecDeque<(Instant, TicketHash)>,
}

/// The tickets; one per process.
pub struct MemoryTickets {
    table: Mutex<Table>,
    most: usize,
}

impl std::fmt::Debug for MemoryTickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryTickets")
            .field("most", &self.most)
            .finish_non_exhaustive()
    }
}

impl Default for MemoryTickets {
    /// 100,000 tickets.
    fn default() -> Self {
        Self::new(100_000)
    }
}

impl MemoryTickets {
    /// Room for `most` tickets, at least 1.
    pub fn new(most: usize) -> Self {
        Self {
            table: Mutex::default(),
            most: most.max(1),
        }
    }

    /// The table without the tickets that have ended, with room for one more if `for_one_more`.
    fn table(&self, for_one_more: bool) -> std::sync::MutexGuard<'_, Table> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        while let Some((ends, hash)) = table.ending.front().copied()
            && (ends <= now || for_one_more && table.ending.len() >= self.most)
        {
            table.ending.pop_front();
            table.holders.remove(&hash);
        }
        table
    }
}

#[async_trait]
impl Tickets for MemoryTickets {
    async fn issue(&self, holder: TicketHolder) -> Result<Ticket, StoreError> {
        let ticket = fresh()?;
        let mut table = self.table(true);
        table.ending.push_back((Instant::now() + LIFE, hash(&ticket)));
        table.holders.insert(hash(&ticket), holder);
        Ok(ticket)
    }

    async fn redeem(&self, ticket: &Ticket) -> Result<Option<TicketHolder>, StoreError> {
        Ok(self.table(false).holders.remove(&hash(ticket)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gravity_domain::auth::{Principal, Role};
    use gravity_domain::clock::Timestamp;
    use gravity_domain::id::UserId;
    use uuid::Uuid;

    fn holder(n: u128) -> TicketHolder {
        TicketHolder {
            principal: Principal {
                user_id: UserId(Uuid::from_u128(n)),
                role: Role::User,
                session_id: None,
            },
            expires_at: Timestamp::from_millis(5),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_is_good_once_and_for_half_a_minute() {
        let tickets = MemoryTickets::new(10);
        let ticket = tickets.issue(holder(1)).await.unwrap();
        assert_eq!(tickets.redeem(&ticket).await.unwrap(), Some(holder(1)));
        assert_eq!(tickets.redeem(&ticket).await.unwrap(), None);
        let late = tickets.issue(holder(1)).await.unwrap();
        tokio::time::advance(LIFE).await;
        assert_eq!(tickets.redeem(&late).await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_oldest_ticket_makes_room() {
        let tickets = MemoryTickets::new(2);
        let first = tickets.issue(holder(1)).await.unwrap();
        let second = tickets.issue(holder(2)).await.unwrap();
        let third = tickets.issue(holder(3)).await.unwrap();
        assert_eq!(tickets.redeem(&first).await.unwrap(), None);
        assert_eq!(tickets.redeem(&second).await.unwrap(), Some(holder(2)));
        assert_eq!(tickets.redeem(&third).await.unwrap(), Some(holder(3)));
    }
}
