//! Postings and records on their way to the store: they fail, are applied and their answer is lost, and the process dies
//! before or after them.

use std::hash::Hash;

use comanda_model::Json;
use comanda_model::ledger::STOCK_PREFIX;
use comanda_store::{PostError, Posted, Posting, PutError, Record, Store, StoreError};

use super::{FaultyStore, broken};
use crate::plan::Fault;
use crate::plant::Plant;

/// More accounts than any run has.
const ACCOUNTS_MAX: usize = 1000;

impl FaultyStore {
    /// A write that is no commit, with what can go wrong before it and after it. `name` tells it from all others.
    pub(super) async fn write_aside<T, E: From<StoreError>>(
        &self,
        what: &'static str,
        name: impl Hash + Copy,
        write: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.way(what).await?;
        let world = &self.world;
        let name = (what, name, world.nth((what, name)));
        let life = self.life.number;
        if world.goes_wrong(Fault::CommitFails, name) {
            world.trace(|| format!("process {life}: {what} fails"));
            return Err(broken(what).into());
        }
        if world.goes_wrong(Fault::CrashBefore, name) {
            world.trace(|| format!("process {life}: dies before {what}"));
            world.kill(&self.life);
            self.life.gate().await;
        }
        let answer = write.await;
        if world.goes_wrong(Fault::CrashAfter, name) {
            world.trace(|| format!("process {life}: dies after {what}"));
            world.kill(&self.life);
        }
        self.life.gate().await;
        if world.goes_wrong(Fault::AnswerLost, name) {
            world.trace(|| format!("process {life}: the answer to {what} is lost"));
            return Err(broken(what).into());
        }
        answer
    }

    pub(super) async fn post_posting(&self, posting: &Posting) -> Result<Posted, PostError> {
        let name = self.world.dice.number(&posting.once_id);
        self.write_aside("post", name, async {
            let world = &self.world;
            let mut sent = posting.clone();
            if world.has(Plant::PostingRepeats) {
                sent.once_id = format!("{}#{}", sent.once_id, world.nth(("posting", &posting.once_id)));
            }
            let answer = world.memory.post(&sent).await;
            world.trace(|| {
                let posted = &posting.once_id;
                format!("process {}: {posted} is posted: {answer:?}", self.life.number)
            });
            let verdict = world.judge.lock().posted(posting, &answer);
            if world.check(verdict) {
                self.stock_is_true().await;
            }
            answer
        })
        .await
    }

    pub(super) async fn put_one_record(&self, record: &Record) -> Result<(), PutError> {
        let name = self.world.dice.number((&record.kind, &record.key, record.version));
        self.write_aside("put_record", name, async {
            let world = &self.world;
            let mut sent = record.clone();
            if world.has(Plant::VoidForgotten) {
                sent.value = Json::from_valid(record.value.as_str().replace("\"voided\"", "\"authorized\""));
            }
            world.memory.put_record(&sent).await?;
            world.trace(|| {
                let (kind, key, value) = (&sent.kind, &sent.key, sent.value.as_str());
                format!("process {}: {kind} {key} is {value}", self.life.number)
            });
            let verdict = world.judge.lock().recorded(&sent);
            world.check(verdict);
            Ok(())
        })
        .await
    }

    /// The balances of the store are held against the judge's.
    pub(super) async fn stock_is_true(&self) {
        let world = &self.world;
        let accounts = world.memory.accounts_after(STOCK_PREFIX, None, ACCOUNTS_MAX).await;
        let verdict = world.judge.lock().stock_is_true(&accounts.unwrap_or_default());
        world.check(verdict);
    }
}
