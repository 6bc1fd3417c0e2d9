//! Work that waits in a queue for workers from outside, and their claims on it.
//!
//! Such a claim has a row, so that a worker's answer counts also after a restart. It is written with a batch of commits
//! like any other change, and published to [`crate::claims`] when it is durable; there it fences as the engine's claims
//! do. A claim whose lease has ended stays until another takes its place: until then its token counts.

use std::sync::Arc;
use std::time::Duration;

use comanda_model::{OrderId, Token};
use comanda_store::{CommitError, QueueClaim, QueueCount, StoreError, WorkClaim, WorkClaims, Worker};
use jiff::Timestamp;
use rusqlite::{Connection, params};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::claim::time;
use crate::claims::{Claims, Moved, Outside};
use crate::column::Sum;
use crate::failure::{Context, Failure, corrupt};
use crate::queue::Asked;
use crate::readers::Reader;
use crate::writer::{Shared, Writer};
use crate::{Inner, row};

/// The most claims of one call.
const CLAIMS_MAX: usize = 1000;
/// How many entries of a queue are read at a time.
const PAGE: i64 = 256;

/// A claim that was written, before its order has been read.
struct Granted {
    seq: i64,
    token: Token,
    lease_until: i64,
    lost: Option<Outside>,
}

pub(crate) fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

fn worker(outside: &Outside) -> Worker {
    Worker {
        name: outside.name.to_string(),
        since: time(outside.since).unwrap_or(Timestamp::UNIX_EPOCH),
    }
}

impl Inner {
    /// Stages something for the writer's next batch, and waits until it is durable.
    pub(crate) async fn operate<T, F>(&self, what: &'static str, run: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut Writer<'_>, i64) -> Result<(T, bool), Failure> + Send + 'static,
    {
        if self.read_only {
            return Err(crate::store::read_only());
        }
        let (answer, answered) = oneshot::channel();
        let operation = Asked {
            run,
            found: None,
            answer,
        };
        if !self.shared.queue.operate(Box::new(operation)) {
            return Err(crate::store::closed(what));
        }
        answered.await.unwrap_or_else(|_| Err(crate::store::closed(what)))
    }

    /// See [`comanda_store::Store::claim_work`].
    pub(crate) async fn claim_work(&self, asked: &QueueClaim) -> Result<WorkClaims, StoreError> {
        const WHAT: &str = "claim work from a queue";
        let (queue, name) = (asked.queue.clone(), Arc::<str>::from(asked.worker.as_str()));
        let (max, lease) = (asked.max.min(CLAIMS_MAX), micros(asked.lease));
        let (granted, next) = self
            .operate(WHAT, move |writer, now| {
                let (granted, next) = writer.claim_work(&queue, &name, max, now.saturating_add(lease), now)?;
                let wrote = !granted.is_empty();
                Ok(((granted, next), wrote))
            })
            .await?;
        let next_due_at = next.and_then(time);
        if granted.is_empty() {
            return Ok(WorkClaims {
                claims: Vec::new(),
                next_due_at,
            });
        }
        let shared = self.shared.clone();
        let read = move |reader: &mut Reader| Ok(reader.claimed_work(&shared, granted));
        let claims = self.readers.read(WHAT, read).await?;
        Ok(WorkClaims { claims, next_due_at })
    }

    /// Extends the claim of a worker from outside.
    pub(crate) async fn renew_work(&self, token: Token, lease: Duration) -> Result<Timestamp, CommitError> {
        let lease = micros(lease);
        let until = self
            .operate("extend a claim", move |writer, now| {
                let until = writer.renew_work(token, now.saturating_add(lease))?;
                Ok((until, until.is_some()))
            })
            .await?;
        let until = until.ok_or(CommitError::TokenStale)?;
        Ok(time(until).unwrap_or(Timestamp::MAX))
    }

    /// Gives claims of workers from outside back.
    pub(crate) async fn release_work(&self, tokens: Vec<Token>) -> Result<(), StoreError> {
        self.operate("give claims back", move |writer, _| {
            let mut wrote = false;
            for token in &tokens {
                wrote |= writer.release_work(*token)?;
            }
            Ok(((), wrote))
        })
        .await
    }
}

impl Writer<'_> {
    /// Moves an order's entry in the queues.
    pub(crate) fn move_queued(
        &mut self,
        seq: i64,
        before: Option<(Arc<str>, i64)>,
        now: Option<(Arc<str>, i64)>,
    ) -> Result<(), Failure> {
        if before == now {
            return Ok(());
        }
        if let Some((queue, at)) = before {
            let id = self.tally.intern_queue(self.connection, &queue)?;
            self.statements.delete_queued.execute((id, at, seq))?;
            self.tally.count_queue(&queue, -1, 0);
        }
        if let Some((queue, at)) = now {
            let id = self.tally.intern_queue(self.connection, &queue)?;
            self.statements.insert_queued.execute((id, at, seq))?;
            self.tally.count_queue(&queue, 1, 0);
        }
        Ok(())
    }

    /// Claims what is free in a queue. Answers it, and when to come again.
    fn claim_work(
        &mut self,
        queue: &str,
        name: &Arc<str>,
        max: usize,
        lease_until: i64,
        now: i64,
    ) -> Result<(Vec<Granted>, Option<i64>), Failure> {
        let Some(id) = self.tally.queue(queue) else {
            return Ok((Vec::new(), None));
        };
        let mut granted = Vec::new();
        let mut next: Option<i64> = None;
        let mut sooner = |at: i64| next = Some(next.map_or(at, |next| next.min(at)));
        let mut after = (i64::MIN, i64::MIN);
        loop {
            let page: Vec<(i64, i64)> = {
                let mut statement = self.connection.prepare_cached(
                    "SELECT at, seq FROM queued WHERE queue = ?1 AND (at, seq) > (?2, ?3) ORDER BY at, seq LIMIT ?4",
                )?;
                let rows = statement.query_map(params![id, after.0, after.1, PAGE], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?;
                rows.collect::<Result<_, _>>()?
            };
            for &(at, seq) in &page {
                after = (at, seq);
                if at > now || granted.len() >= max {
                    sooner(at);
                    return Ok((granted, next));
                }
                match self.claim_one(id, name, seq, lease_until, now) {
                    Ok(Ok(one)) => {
                        sooner(lease_until);
                        granted.push(one);
                    }
                    Ok(Err(until)) => until.into_iter().for_each(&mut sooner),
                    Err(failure) => match failure.into_store_error("claim work") {
                        // One order's damage must not keep the others from being worked.
                        error @ StoreError::Corrupt { .. } => {
                            tracing::error!(seq, %error, "an order that waits in a queue cannot be read");
                        }
                        error => return Err(error.into()),
                    },
                }
            }
            if (page.len() as i64) < PAGE {
                return Ok((granted, next));
            }
        }
    }

    /// Claims one order, if nobody has it; otherwise answers until when it is taken, as far as that is known.
    fn claim_one(
        &mut self,
        queue: i64,
        name: &Arc<str>,
        seq: i64,
        lease_until: i64,
        now: i64,
    ) -> Result<Result<Granted, Option<i64>>, Failure> {
        let order = self.id_of(seq)?;
        let lost = match self.moves.get(&order) {
            Some((_, Some(moved))) => return Ok(Err(moved.worker.as_ref().map(|worker| worker.lease_until))),
            Some((_, None)) => None,
            None => match self.shared.claims.move_free(order, seq, now) {
                Ok(held) => held.and_then(|held| held.worker),
                Err(until) => return Ok(Err(until)),
            },
        };
        let current = match self.recent.take(order) {
            Some(current) => current,
            None => self.current_by_seq(seq, order)?,
        };
        let (visit, attempt) = current.try_at;
        self.recent.put(order, current);
        let token = Token {
            order,
            visit,
            attempt,
            secret: Uuid::new_v4(),
        };
        let outside = Outside {
            queue,
            name: name.clone(),
            since: now,
            lease_until,
        };
        self.write_work_claim(seq, token, outside)?;
        Ok(Ok(Granted {
            seq,
            token,
            lease_until,
            lost,
        }))
    }

    fn write_work_claim(&mut self, seq: i64, token: Token, outside: Outside) -> Result<(), Failure> {
        self.statements.write_claim.execute(params![
            seq,
            outside.queue,
            outside.name,
            outside.since,
            outside.lease_until,
            token.visit,
            token.attempt,
            token.secret.as_bytes(),
            claim_sum(seq, &token, &outside),
        ])?;
        let moved = Moved {
            token,
            lease_micros: 0,
            worker: Some(outside),
        };
        self.moves.insert(token.order, (seq, Some(moved)));
        Ok(())
    }

    /// The claim that a worker from outside holds under this token, as the batch has it.
    fn held_outside(&self, token: Token) -> Result<Option<(i64, Outside)>, Failure> {
        let held = match self.moves.get(&token.order) {
            Some((seq, moved)) => moved.as_ref().map(|moved| (*seq, moved.token, moved.worker.clone())),
            None => {
                let held = self.shared.claims.held(token.order);
                held.map(|held| (held.seq(), held.token, held.worker))
            }
        };
        Ok(held.and_then(|(seq, held, worker)| (held == token).then_some((seq, worker?))))
    }

    fn renew_work(&mut self, token: Token, lease_until: i64) -> Result<Option<i64>, Failure> {
        let Some((seq, outside)) = self.held_outside(token)? else {
            return Ok(None);
        };
        self.shared.claims.mark_moving(token.order, Some(seq));
        self.write_work_claim(seq, token, Outside { lease_until, ..outside })?;
        Ok(Some(lease_until))
    }

    fn release_work(&mut self, token: Token) -> Result<bool, Failure> {
        let Some((seq, _)) = self.held_outside(token)? else {
            return Ok(false);
        };
        self.shared.claims.mark_moving(token.order, Some(seq));
        self.statements.delete_claim.execute([seq])?;
        self.moves.insert(token.order, (seq, None));
        Ok(true)
    }
}

impl Reader {
    /// Reads orders that were claimed. What has moved on since, or cannot be read, is left out: its claim has ended, or
    /// ends with its lease.
    fn claimed_work(&mut self, shared: &Shared, granted: Vec<Granted>) -> Vec<WorkClaim> {
        let mut claims = Vec::with_capacity(granted.len());
        for one in granted {
            let held = shared.claims.held(one.token.order);
            if held.is_none_or(|held| held.token != one.token) {
                continue;
            }
            match self.order_by_seq(one.seq) {
                Ok(Some(loaded)) => claims.push(WorkClaim {
                    order: loaded.order,
                    token: one.token,
                    lease_until: time(one.lease_until).unwrap_or(Timestamp::MAX),
                    lost: one.lost.as_ref().map(worker),
                }),
                Ok(None) => {}
                Err(failure) => {
                    let error = failure.into_store_error("read an order");
                    tracing::error!(order = %one.token.order, %error, "an order that was claimed cannot be read");
                }
            }
        }
        claims
    }

    /// How much stands in each queue.
    pub(crate) fn queues(&mut self, shared: &Shared) -> Result<Vec<QueueCount>, Failure> {
        let now = shared.clock.micros();
        let leased = shared.claims.leased(now);
        let mut statement = self.connection.prepare_cached(
            "SELECT q.id, q.name, q.depth, q.dead, (SELECT min(at) FROM queued WHERE queue = q.id), \
             (SELECT at FROM items WHERE queue = q.id AND died_at IS NULL ORDER BY position LIMIT 1), \
             (SELECT count(*) FROM items WHERE queue = q.id AND secret IS NOT NULL AND due_at > ?1) \
             FROM queues q ORDER BY q.name",
        )?;
        // Counted are only the leases that hold: about as many as there are workers.
        let mut rows = statement.query([now])?;
        let mut queues = Vec::new();
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let oldest = row.get::<_, Option<i64>>(4)?.filter(|at| *at <= now);
            let oldest = oldest.into_iter().chain(row.get::<_, Option<i64>>(5)?).min();
            queues.push(QueueCount {
                queue: row.get(1)?,
                depth: row.get::<_, i64>(2)?.max(0) as u64,
                leased: leased.get(&id).copied().unwrap_or(0) + row.get::<_, i64>(6)?.max(0) as u64,
                dead: row.get::<_, i64>(3)?.max(0) as u64,
                oldest_at: oldest.and_then(time),
            });
        }
        Ok(queues)
    }
}

/// The worker that has claimed an order from a queue, also when its lease has ended.
pub(crate) fn worker_of(claims: &Claims, order: OrderId) -> Option<Worker> {
    claims.held(order)?.worker.as_ref().map(worker)
}

fn claim_sum(seq: i64, token: &Token, outside: &Outside) -> i64 {
    Sum::new(b'c', seq)
        .bytes(token.order.0.as_bytes())
        .int(i64::from(token.visit))
        .int(i64::from(token.attempt))
        .bytes(token.secret.as_bytes())
        .int(outside.queue)
        .text(&outside.name)
        .int(outside.since)
        .int(outside.lease_until)
        .finish()
}

/// Reads the claims of workers from outside. `each` is given the order's number, or what is wrong with a row.
pub(crate) fn each_claim(
    connection: &Connection,
    each: impl FnMut(Result<(i64, Token, Outside), Failure>),
) -> Result<(), Failure> {
    claims_where(connection, None, each)
}

/// Reads the claim of one order, if there is one.
pub(crate) fn claim_of(
    connection: &Connection,
    seq: i64,
    each: impl FnMut(Result<(i64, Token, Outside), Failure>),
) -> Result<(), Failure> {
    claims_where(connection, Some(seq), each)
}

fn claims_where(
    connection: &Connection,
    seq: Option<i64>,
    mut each: impl FnMut(Result<(i64, Token, Outside), Failure>),
) -> Result<(), Failure> {
    let of = if seq.is_some() { "c.seq = ?1" } else { "?1 IS NULL" };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT c.seq, o.id, c.visit, c.attempt, c.secret, c.queue, c.worker, c.since, c.lease_until, c.crc \
         FROM claims c LEFT JOIN orders o ON o.seq = c.seq WHERE {of} ORDER BY c.seq"
    ))?;
    let mut rows = statement.query([seq])?;
    while let Some(row) = rows.next()? {
        let seq: i64 = row.get(0)?;
        let damaged = |detail: &str| -> Failure { corrupt(row::of_order("the claim", seq), detail).into() };
        let read = || -> rusqlite::Result<(Option<[u8; 16]>, Token, Outside, i64)> {
            let id: Option<[u8; 16]> = row.get(1)?;
            let token = Token {
                order: OrderId(Uuid::from_bytes(id.unwrap_or_default())),
                visit: row.get(2)?,
                attempt: row.get(3)?,
                secret: Uuid::from_bytes(row.get(4)?),
            };
            let outside = Outside {
                queue: row.get(5)?,
                name: row.get(6)?,
                since: row.get(7)?,
                lease_until: row.get(8)?,
            };
            Ok((id, token, outside, row.get(9)?))
        };
        each(match read() {
            Err(error) => Err(error.into()),
            Ok((None, ..)) => Err(damaged("it leads to no order")),
            Ok((_, token, outside, sum)) if sum != claim_sum(seq, &token, &outside) => {
                Err(damaged("its checksum does not match"))
            }
            Ok((_, token, outside, _)) => Ok((seq, token, outside)),
        });
    }
    Ok(())
}

/// Takes up the claims that outlived the process before.
pub(crate) fn restore(connection: &Connection, claims: &Claims) -> Result<(), StoreError> {
    each_claim(connection, |claim| match claim {
        Ok((seq, token, outside)) => claims.restore(seq, token, outside),
        Err(failure) => {
            // Its work is claimed anew, and the old token does not count: nothing is lost but that attempt.
            let error = failure.into_store_error("read a claim");
            tracing::error!(%error, "a claim cannot be read; run `comanda verify`");
        }
    })
    .context("read the claims")
}
