//! Tickets in Redis, so that any node takes what another gave out; while Redis does not answer, in this process.
//!
//! Only a hash of a ticket is kept. A ticket lies in one place, and is spent by removing it there.

use super::memory_tickets::MemoryTickets;
use crate::redis::{PREFIX, Redis};
use async_trait::async_trait;
use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gravity_domain::auth::{Principal, Role};
use gravity_domain::chat::{Ticket, TicketHolder, Tickets};
use gravity_domain::clock::Timestamp;
use gravity_domain::error::StoreError;
use gravity_domain::id::{SessionId, UserId};
use serde::{Deserialize, Serialize};

/// What a ticket is kept by.
pub(super) type TicketHash = [u8; 32];

/// A new ticket.
pub(super) fn fresh() -> Result<Ticket, StoreError> {
    let mut secret = [0; 32];
    rand::fill(&mut secret).map_err(|_| StoreError::unavailable("random"))?;
    Ok(Ticket::new(URL_SAFE_NO_PAD.encode(secret)))
}

pub(super) fn hash(ticket: &Ticket) -> TicketHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, ticket.expose().as_bytes()).as_ref());
    hash
}

/// A holder, in Redis.
#[derive(Serialize, Deserialize)]
struct Held {
    user: UserId,
    role: Role,
    session: Option<SessionId>,
    ends: Timestamp,
}

impl From<TicketHolder> for Held {
    fn from(holder: TicketHolder) -> Self {
        Self {
            user: holder.principal.user_id,
            role: holder.principal.role,
            session: holder.principal.session_id,
            ends: holder.expires_at,
        }
    }
}

impl From<Held> for TicketHolder {
    fn from(held: Held) -> Self {
        Self {
            principal: Principal {
                user_id: held.user,
                role: held.role,
                session_id: held.session,
            },
            expires_at: held.ends,
        }
    }
}

/// Tickets that nodes share, as far as Redis answers.
#[derive(Debug)]
pub struct RedisTickets {
    redis: Redis,
    local: MemoryTickets,
}

impl RedisTickets {
    /// Tickets in `redis`, and in `local` while it does not answer.
    pub fn new(redis: Redis, local: MemoryTickets) -> Self {
        Self { redis, local }
    }

    async fn issue_shared(&self, holder: TicketHolder) -> Result<Ticket, StoreError> {
        let ticket = fresh()?;
        let held = serde_json::to_vec(&Held::from(holder)).map_err(|error| StoreError::Rejected {
            reason: "ticket".to_owned(),
            source: Some(Box::new(error)),
        })?;
        let mut set = redis::cmd("SET");
        set.arg(key(&ticket))
            .arg(held)
            .arg("EX")
            .arg(Ticket::SECONDS)
            .arg("NX");
        self.redis.command::<()>("ticket_issue", &set).await?;
        Ok(ticket)
    }
}

fn key(ticket: &Ticket) -> String {
    format!("{PREFIX}chat:ticket:{}", URL_SAFE_NO_PAD.encode(hash(ticket)))
}

#[async_trait]
impl Tickets for RedisTickets {
    async fn issue(&self, holder: TicketHolder) -> Result<Ticket, StoreError> {
        match self.issue_shared(holder).await {
            Err(error) if error.is_transient() => {
                tracing::debug!(%error, "a ticket is good at this node only");
                metrics::counter!("gravity_chat_ticket_fallback_total").increment(1);
                self.local.issue(holder).await
            }
            issued => issued,
        }
    }

    async fn redeem(&self, ticket: &Ticket) -> Result<Option<TicketHolder>, StoreError> {
        if let Some(holder) = self.local.redeem(ticket).await? {
            return Ok(Some(holder));
        }
        let mut take = redis::cmd("GETDEL");
        take.arg(key(ticket));
        let held: Option<Vec<u8>> = self.redis.command("ticket_redeem", &take).await?;
        Ok(held
            .and_then(|held| serde_json::from_slice::<Held>(&held).ok())
            .map(TicketHolder::from))
    }
}
