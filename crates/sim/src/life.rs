//! A life: one process from its start to its end. It can be held still, and it can be killed at any moment; from then on
//! nothing that it began goes any further.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Still,
    Dead,
}

/// One life.
pub struct Life {
    /// Counts lives, from 0.
    pub number: u32,
    state: Mutex<State>,
    /// Wakes in the order in which they wait; tokio's `watch` would wake them in one of its own choice.
    changed: Notify,
}

impl Life {
    /// A life that begins.
    pub fn new(number: u32) -> Arc<Self> {
        Arc::new(Self {
            number,
            state: Mutex::new(State::Running),
            changed: Notify::new(),
        })
    }

    /// Whether it is over.
    pub fn is_dead(&self) -> bool {
        *self.state.lock() == State::Dead
    }

    /// It ends. Answers whether it had not ended before.
    pub fn kill(&self) -> bool {
        let ended = std::mem::replace(&mut *self.state.lock(), State::Dead) != State::Dead;
        self.changed.notify_waiters();
        ended
    }

    /// It stands still, or goes on.
    pub fn hold_still(&self, still: bool) {
        let mut state = self.state.lock();
        if *state != State::Dead {
            *state = if still { State::Still } else { State::Running };
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Goes on when the life does. In a dead one it never does.
    pub async fn gate(&self) {
        loop {
            let changed = self.changed.notified();
            let state = *self.state.lock();
            match state {
                State::Running => return,
                State::Still => changed.await,
                State::Dead => std::future::pending().await,
            }
        }
    }

    /// Resolves when it is over.
    pub async fn died(&self) {
        loop {
            let changed = self.changed.notified();
            if self.is_dead() {
                return;
            }
            changed.await;
        }
    }
}
