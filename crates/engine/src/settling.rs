//! Waiting for a commit whose caller may go away meanwhile.
//!
//! A client that closes its connection ends the future that answers it, and the commit happens all the same. If that
//! commit has claimed the order's next work, nobody is left to do it until the lease ends. So whoever goes away leaves
//! a task behind that waits in its place, gives the claim back, and wakes the engine.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use comanda_model::Token;
use comanda_store::{CommitError, Receipt, Ticket};

use crate::release::Releases;
use crate::service::Core;
use crate::tasks::Tasks;
use crate::worker::Wake;

/// A ticket that is not forgotten when it is dropped.
pub(crate) struct Settling {
    /// Empty when the answer was given.
    ticket: Option<Ticket>,
    /// The claim that the commit asked for.
    taken: Option<Token>,
    releases: Arc<Releases>,
    wake: Arc<Wake>,
    tasks: Tasks,
}

impl Core {
    /// Waits for a staged commit, which asked for the claim `taken`.
    pub(crate) fn settling(&self, ticket: Ticket, taken: Option<Token>) -> Settling {
        Settling {
            ticket: Some(ticket),
            taken,
            releases: self.releases.clone(),
            wake: self.wake.clone(),
            tasks: self.tasks.clone(),
        }
    }
}

impl Settling {
    /// The claim that the commit asked for.
    pub(crate) fn taken(&self) -> Option<Token> {
        self.taken
    }
}

impl Future for Settling {
    type Output = Result<Receipt, CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(ticket) = &mut self.ticket else {
            return Poll::Ready(Err(CommitError::Unknown));
        };
        let answer = Pin::new(ticket).poll(context);
        if answer.is_ready() {
            self.ticket = None;
        }
        answer
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let (releases, wake, taken) = (self.releases.clone(), self.wake.clone(), self.taken);
        let left_behind = async move {
            match (ticket.await, taken) {
                (Ok(receipt), Some(token)) if receipt.claimed => releases.release(&[token]).await,
                // Whether it was applied is not known: a claim that is not there is given back, which does nothing.
                (Err(CommitError::Unknown), Some(token)) => releases.release_in_doubt(token),
                (Ok(_), _) | (Err(CommitError::Unknown), None) => {}
                (Err(_), _) => return,
            }
            wake.now();
        };
        self.tasks.spawn(left_behind);
    }
}
