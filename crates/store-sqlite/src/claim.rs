//! Claiming what is due: look, reserve, look again. See [`crate::claims`] for why.

use std::sync::Arc;
use std::time::Duration;

use comanda_model::Token;
use comanda_store::{Claim, Claims, Place, StoreError};
use jiff::Timestamp;

use crate::claims::Reserved;
use crate::column::due_micros;
use crate::failure::Failure;
use crate::readers::Reader;
use crate::writer::Shared;

/// The most claims of one call.
const CLAIMS_MAX: usize = 10_000;

/// Claims on their way to whoever asked. If nobody takes them, they are given back.
pub(crate) struct Granted {
    claims: Claims,
    shared: Arc<Shared>,
    taken: bool,
}

impl Granted {
    /// Takes the claims.
    pub(crate) fn take(mut self) -> Claims {
        self.taken = true;
        std::mem::take(&mut self.claims)
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if !self.taken {
            let tokens: Vec<Token> = self.claims.claims.iter().map(|claim| claim.token).collect();
            self.shared.claims.release(&tokens);
        }
    }
}

impl Reader {
    /// Claims up to `max` due orders.
    pub(crate) fn claim(&mut self, shared: &Arc<Shared>, max: usize, lease: Duration) -> Result<Granted, Failure> {
        let max = max.min(CLAIMS_MAX);
        let now = shared.clock.micros();
        let lease_micros = i64::try_from(lease.as_micros()).unwrap_or(i64::MAX);
        let due = self.free_due(shared, max, now)?;
        let (reserved, next) = shared.claims.reserve(&due, max, now, lease_micros);
        let mut granted = Granted {
            claims: Claims {
                claims: Vec::new(),
                next_due_at: next.and_then(time),
            },
            shared: shared.clone(),
            taken: false,
        };
        if reserved.is_empty() {
            return Ok(granted);
        }
        let mut unread = None;
        let read = self.at_one_moment(|reader| {
            for (index, one) in reserved.iter().enumerate() {
                match reader.claimed(shared, *one, now) {
                    Ok(Some(claim)) => granted.claims.claims.push(claim),
                    Ok(None) => shared.claims.drop_reserved(*one),
                    Err(failure) => match failure.into_store_error("read a due order") {
                        error @ StoreError::Corrupt { .. } => {
                            tracing::error!(order = %one.order, %error, "a due order cannot be read; it is set aside");
                            shared.claims.set_aside(*one);
                            unread = Some(error);
                        }
                        error => {
                            // The disk's matter: all of them are given back, and the caller is told.
                            for rest in &reserved[index..] {
                                shared.claims.drop_reserved(*rest);
                            }
                            return Err(error.into());
                        }
                    },
                }
            }
            Ok(())
        });
        read?;
        match unread {
            Some(error) if granted.claims.claims.is_empty() => Err(error.into()),
            _ => Ok(granted),
        }
    }

    /// The first `max` and one more entries of the due list whose orders are with nobody, with the orders' ids.
    pub(crate) fn free_due(
        &mut self,
        shared: &Shared,
        max: usize,
        now: i64,
    ) -> Result<Vec<(i64, i64, comanda_model::OrderId)>, Failure> {
        let mut limit = max + 1 + shared.claims.count();
        self.at_one_moment(|reader| {
            loop {
                let due = reader.due(limit)?;
                let free = shared.claims.free(&due, max + 1, now);
                if free.len() <= max && due.len() == limit {
                    // More was claimed meanwhile than was allowed for.
                    limit *= 2;
                    continue;
                }
                let mut found = Vec::with_capacity(free.len());
                for (at, seq) in free {
                    match reader.id_of(seq)? {
                        Some(id) => found.push((at, seq, id)),
                        None => {
                            tracing::error!(seq, "an entry of the due list leads to no order; run `comanda verify`")
                        }
                    }
                }
                return Ok(found);
            }
        })
    }

    /// Reads a reserved order again, and claims it if it is still due.
    fn claimed(&mut self, shared: &Shared, reserved: Reserved, now: i64) -> Result<Option<Claim>, Failure> {
        let Some(loaded) = self.order_by_seq(reserved.seq)? else {
            return Ok(None);
        };
        let active = !matches!(loaded.place, Place::Behind(_));
        let head = &loaded.order.head;
        if head.due_at(active).is_none_or(|due| due_micros(due) > now) {
            return Ok(None);
        }
        let (visit, attempt) = head.work.as_ref().map_or((0, 0), |work| (work.visit, work.attempt));
        let Some((token, lease_until)) = shared.claims.confirm(reserved, visit, attempt) else {
            return Ok(None);
        };
        let lease_until = time(lease_until).unwrap_or(Timestamp::MAX);
        Ok(Some(Claim {
            order: Arc::new(loaded.order),
            token,
            lease_until,
        }))
    }
}

/// A time from microseconds.
pub(crate) fn time(micros: i64) -> Option<Timestamp> {
    Timestamp::from_microsecond(micros).ok()
}

/// When the work was due that has waited longest, if any is overdue.
pub(crate) fn oldest_due(reader: &mut Reader, shared: &Shared) -> Result<Option<Timestamp>, Failure> {
    let now = shared.clock.micros();
    let free = reader.free_due(shared, 0, now)?;
    Ok(free
        .first()
        .filter(|(at, ..)| *at <= now)
        .and_then(|(at, ..)| time(*at)))
}

/// Extends a claim; answers when it now ends.
pub(crate) fn renew(shared: &Shared, token: &Token, lease: Duration) -> Option<Timestamp> {
    let until = shared
        .clock
        .micros()
        .saturating_add(i64::try_from(lease.as_micros()).unwrap_or(i64::MAX));
    shared
        .claims
        .renew(token, until)
        .then(|| time(until).unwrap_or(Timestamp::MAX))
}
