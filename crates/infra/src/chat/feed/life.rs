//! Whether hints are heard.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// No subscription.
    #[default]
    Away,
    /// A subscription that has shown no life yet.
    Mute(Instant),
    /// Life was seen then.
    Alive(Instant),
}

/// The state of the subscription.
#[derive(Debug, Default)]
pub(super) struct Life {
    state: Mutex<State>,
}

impl Life {
    pub(super) fn is_up(&self) -> bool {
        matches!(*self.state(), State::Alive(_))
    }

    /// A new subscription.
    pub(super) fn subscribed(&self) {
        *self.state() = State::Mute(Instant::now());
    }

    /// A sign of life. True when it is the first of a subscription. One that comes before the subscription is whole does
    /// not count.
    pub(super) fn sign(&self) -> bool {
        let mut state = self.state();
        let is_first = matches!(*state, State::Mute(_));
        if *state != State::Away {
            *state = State::Alive(Instant::now());
        }
        drop(state);
        if is_first {
            gauge(1.0);
        }
        is_first
    }

    /// The subscription is gone.
    pub(super) fn lost(&self) {
        *self.state() = State::Away;
        gauge(0.0);
    }

    /// Gives up a subscription that has been silent for so long: `Some`, whether it had been alive.
    pub(super) fn silent_for(&self, silence: Duration) -> Option<bool> {
        let mut state = self.state();
        let was_up = match *state {
            State::Alive(since) if since.elapsed() >= silence => true,
            State::Mute(since) if since.elapsed() >= silence => false,
            _ => return None,
        };
        *state = State::Away;
        drop(state);
        gauge(0.0);
        Some(was_up)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gauge(value: f64) {
    metrics::gauge!("gravity_chat_relay_up").set(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(25);

    #[tokio::test(start_paused = true)]
    async fn a_subscription_is_up_from_its_first_sign_of_life_to_a_long_silence() {
        let life = Life::default();
        assert!(!life.sign());
        life.subscribed();
        assert!(!life.is_up());
        assert!(life.sign());
        assert!(!life.sign());
        assert!(life.is_up());
        tokio::time::advance(SILENCE / 2).await;
        assert!(!life.sign());
        tokio::time::advance(SILENCE / 2).await;
        assert_eq!(life.silent_for(SILENCE), None);
        tokio::time::advance(SILENCE / 2).await;
        assert_eq!(life.silent_for(SILENCE), Some(true));
        assert!(!life.is_up());
        assert_eq!(life.silent_for(SILENCE), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_subscription_that_never_shows_life_is_given_up_too() {
        let life = Life::default();
        life.subscribed();
        tokio::time::advance(SILENCE).await;
        assert_eq!(life.silent_for(SILENCE), Some(false));
        life.subscribed();
        life.lost();
        assert!(!life.sign());
    }
}
