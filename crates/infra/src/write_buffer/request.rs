//! What is asked of the writer thread, and how each request is answered: after the commit, with all of its group.

use super::engine::EngineError;
use super::queue::{Draft, Parcelled, Refusal};
use super::search::IndexEntries;
use gravity_domain::clock::Timestamp;
use gravity_domain::id::OperationId;
use gravity_domain::sync::{BufferError, DeadLetter, Parcel};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// Where an answer goes.
pub(super) type Answer<T> = oneshot::Sender<Result<T, BufferError>>;

/// A request, with the place in the queue that it takes until it is taken out.
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) place: OwnedSemaphorePermit,
}

pub(super) enum Request {
    Append(Box<Parcelled>, Answer<()>),
    Remove(Vec<Parcel>, Answer<()>),
    Bury(Box<Burial>, Answer<()>),
    Retry(OperationId, Answer<DeadLetter>),
    Discard(OperationId, Answer<DeadLetter>),
    Close(Answer<()>),
}

/// A record to be made a dead letter.
pub(super) struct Burial {
    pub(super) parcel: Parcel,
    pub(super) attempts: u32,
    pub(super) reason: String,
    /// Its index entries, where it cannot name them itself.
    pub(super) entries: Option<IndexEntries>,
}

/// A request that has been drafted, and its answer should the commit succeed.
pub(super) enum Settled {
    Append(Answer<()>, Result<(), BufferError>),
    Plain(Answer<()>),
    Letter(Answer<DeadLetter>, Box<Result<DeadLetter, BufferError>>),
}

impl Request {
    /// How many operations it is about.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Remove(parcels, _) => parcels.len().max(1),
            _ => 1,
        }
    }

    /// How many bytes it adds.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Append(item, _) => item.payload.len(),
            _ => 0,
        }
    }

    /// Puts its changes into the draft. An append whose caller has given up is left out: nobody was promised it.
    pub(super) fn draft(self, draft: &mut Draft<'_>, now: Timestamp) -> (Settled, Result<(), EngineError>) {
        match self {
            Self::Append(_, answer) if answer.is_closed() => (Settled::Plain(answer), Ok(())),
            Self::Append(item, answer) => {
                let (outcome, result) = split(draft.append(&item));
                (Settled::Append(answer, outcome), result)
            }
            Self::Remove(parcels, answer) => {
                let result = parcels.into_iter().try_for_each(|parcel| draft.remove(parcel));
                (Settled::Plain(answer), result)
            }
            Self::Bury(burial, answer) => {
                let parcel = burial.parcel;
                if let Some(entries) = burial.entries {
                    draft.know(parcel.sequence, entries);
                }
                let result = draft.bury(parcel, burial.attempts, &burial.reason, now);
                (Settled::Plain(answer), result)
            }
            Self::Retry(id, answer) => {
                let (outcome, result) = split(draft.retry(id));
                (Settled::Letter(answer, Box::new(outcome)), result)
            }
            Self::Discard(id, answer) => {
                let (outcome, result) = split(draft.discard(id));
                (Settled::Letter(answer, Box::new(outcome)), result)
            }
            Self::Close(answer) => (Settled::Plain(answer), Ok(())),
        }
    }

    /// Answers without having done anything.
    pub(super) fn refuse(self, error: &EngineError) {
        match self {
            Self::Append(_, answer) => Settled::Append(answer, Ok(())).fail(error),
            Self::Remove(_, answer) | Self::Bury(_, answer) | Self::Close(answer) => {
                Settled::Plain(answer).fail(error);
            }
            Self::Retry(_, answer) | Self::Discard(_, answer) => {
                let none = Box::new(Err(BufferError::NotFound));
                Settled::Letter(answer, none).fail(error);
            }
        }
    }
}

fn split<T>(drafted: Result<T, Refusal>) -> (Result<T, BufferError>, Result<(), EngineError>) {
    match drafted {
        Ok(value) => (Ok(value), Ok(())),
        Err(Refusal::Refused(error)) => (Err(error), Ok(())),
        Err(Refusal::Store(error)) => (Err(BufferError::Unavailable(error.to_string())), Err(error)),
    }
}

impl Settled {
    /// Tells the outcome. Who no longer listens is not told.
    pub(super) fn answer(self) {
        match self {
            Self::Append(answer, outcome) => drop(answer.send(outcome)),
            Self::Plain(answer) => drop(answer.send(Ok(()))),
            Self::Letter(answer, outcome) => drop(answer.send(*outcome)),
        }
    }

    /// Tells that the commit failed.
    pub(super) fn fail(self, error: &EngineError) {
        let unavailable = BufferError::Unavailable(error.to_string());
        match (self, error) {
            (Self::Append(answer, _), EngineError::NoSpace(_)) => drop(answer.send(Err(BufferError::Full))),
            (Self::Append(answer, _) | Self::Plain(answer), _) => drop(answer.send(Err(unavailable))),
            (Self::Letter(answer, _), _) => drop(answer.send(Err(unavailable))),
        }
    }
}
