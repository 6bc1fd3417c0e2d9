//! The store as one process sees it: the in-memory store, with everything between the two that can go wrong, and the
//! judge beside it, who learns what really became durable.

mod ledger;
mod subscriptions;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use comanda_model::ledger::{HELD, ON_HAND};
use comanda_model::order::{DoneState, StepAt};
use comanda_model::{Attempt, Event, LedgerLine, OrderId, Token, TypeHash, WorkKind};
use comanda_store::{
    Account, Capabilities, Cause, ClaimMove, Claims, Commit, CommitError, Counters, DeadItem, DeadItemMove, Expect,
    FeedPage, FeedStart, ItemClaims, ItemOutcome, ItemToken, ListQuery, OrderPage, PostError, Posted, Posting,
    PutError, QueueClaim, QueueCount, Receipt, Record, Store, StoreError, Stored, SubscriptionStore, Ticket,
    TypeSource, WorkClaims,
};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use crate::judge::number_in;
use crate::life::Life;
use crate::plan::Fault;
use crate::plant::Plant;
use crate::types;
use crate::world::World;

type Answer = oneshot::Sender<Result<Receipt, CommitError>>;

/// The store, seen from one life.
pub struct FaultyStore {
    world: Arc<World>,
    life: Arc<Life>,
    staged: mpsc::UnboundedSender<(Commit, Answer)>,
    /// What planted bugs remember.
    planted: Mutex<Planted>,
}

#[derive(Default)]
struct Planted {
    /// Orders whose work was announced to this life.
    announced: Vec<OrderId>,
    /// Tokens that were granted before their commit was durable.
    early: Vec<Token>,
}

impl FaultyStore {
    /// The store for a life that begins.
    pub fn new(world: Arc<World>, life: Arc<Life>) -> Arc<Self> {
        let (staged, receiver) = mpsc::unbounded_channel();
        let store = Arc::new(Self {
            world,
            life,
            staged,
            planted: Mutex::default(),
        });
        tokio::spawn(store.clone().write(receiver));
        store
    }

    /// The writer: takes commits in order, as a disk or a server would.
    async fn write(self: Arc<Self>, mut staged: mpsc::UnboundedReceiver<(Commit, Answer)>) {
        while let Some((commit, answer)) = staged.recv().await {
            self.life.gate().await;
            self.clone().write_one(commit, answer).await;
        }
    }

    async fn write_one(self: Arc<Self>, mut commit: Commit, answer: Answer) {
        let world = self.world.clone();
        world.deed();
        if world.has(Plant::EffectForgotten) {
            Arc::make_mut(&mut commit.order)
                .head
                .done
                .retain(|done| done.state != DoneState::Unknown);
        }
        if world.has(Plant::ApprovalSkipped) {
            skip_approval(&mut commit);
        }
        let n = number_in(commit.order.data.as_str(), "n").unwrap_or(u64::MAX);
        let version = commit.order.head.version;
        let name = ("commit", n, version, world.nth(("commit", n, version)));
        let wrong = |fault| world.goes_wrong(fault, name);
        let life = self.life.number;
        if wrong(Fault::CommitSlow) {
            let millis = world.rolls(("slow", name)).one(&[1, 10, 200, 4000]);
            tokio::time::sleep(Duration::from_millis(millis)).await;
            self.life.gate().await;
        }
        if wrong(Fault::CommitBusy) {
            world.trace(|| format!("process {life}: commit #{n} v{version}: turned away"));
            let after = Duration::from_millis(10);
            return self.tell(answer, Err(CommitError::Busy { after }));
        }
        if wrong(Fault::CommitFails) {
            world.trace(|| format!("process {life}: commit #{n} v{version}: fails"));
            return self.tell(answer, Err(broken("commit").into()));
        }
        if wrong(Fault::CommitLost) {
            world.trace(|| format!("process {life}: commit #{n} v{version}: lost on its way"));
            return self.tell(answer, Err(CommitError::Unknown));
        }
        if wrong(Fault::CrashBefore) {
            world.trace(|| format!("process {life}: dies before commit #{n} v{version}"));
            self.bury(answer);
            return world.kill(&self.life);
        }
        if world.has(Plant::AcceptedNotDurable) && commit.expect == Expect::Absent {
            let receipt = Receipt {
                claimed: false,
                queued: false,
                promoted: None,
                position: 0,
            };
            return self.tell(answer, Ok(receipt));
        }
        let token = matches!(commit.expect, Expect::At { token: Some(_), .. });
        let mut answer = Some(answer);
        if let (true, ClaimMove::Take { token, .. }) = (world.has(Plant::StepBeforeDurable), &commit.claim) {
            self.planted.lock().early.push(*token);
            let receipt = Receipt {
                claimed: true,
                queued: false,
                promoted: None,
                position: 0,
            };
            if let Some(answer) = answer.take() {
                self.tell(answer, Ok(receipt));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut result = self.apply(commit.clone(), n, token).await;
        if wrong(Fault::CommitTwice) {
            let again = world.rolls(("again", name)).one(&[0, 0, 30, 3000]);
            if again == 0 {
                let _ = self.apply(commit, n, token).await;
            } else {
                let store = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(again)).await;
                    store.life.gate().await;
                    let _ = store.apply(commit, n, token).await;
                });
            }
        }
        if wrong(Fault::CrashAfter) {
            world.trace(|| format!("process {life}: dies after commit #{n} v{version}"));
            if let Some(answer) = answer {
                self.bury(answer);
            }
            return world.kill(&self.life);
        }
        if wrong(Fault::AnswerLost) && result.is_ok() {
            world.trace(|| format!("process {life}: the answer to commit #{n} v{version} is lost"));
            result = Err(match world.has(Plant::OwnCommitTakenForStale) && token {
                true => CommitError::TokenStale,
                false => CommitError::Unknown,
            });
        }
        if world.has(Plant::ResultDroppedAfterEdit) && token && matches!(result, Err(CommitError::VersionMoved { .. }))
        {
            result = Err(CommitError::TokenStale);
        }
        if let (Ok(receipt), true) = (&mut result, wrong(Fault::WakeLost)) {
            receipt.promoted = None;
        }
        let Some(answer) = answer else { return };
        if wrong(Fault::CommitSlow) {
            let millis = world.rolls(("late", name)).one(&[1, 30, 500, 8000]);
            let store = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                store.life.gate().await;
                store.tell(answer, result);
            });
            return;
        }
        self.tell(answer, result);
    }

    /// Applies a commit, and tells the judge what was asked and what came of it.
    async fn apply(&self, commit: Commit, n: u64, with_token: bool) -> Result<Receipt, CommitError> {
        let world = &self.world;
        let [ticket] = <[Ticket; 1]>::try_from(world.memory.commit(vec![self.sabotaged(&commit)]))
            .map_err(|_| CommitError::Closed)?;
        let result = ticket.await;
        let head = &commit.order.head;
        world.trace(|| {
            let outcome = match &result {
                Ok(receipt) => format!("durable (taken {}, queued {})", receipt.claimed, receipt.queued),
                Err(error) => format!("not applied: {error}"),
            };
            let events: Vec<_> = commit.events.iter().map(|event| event.kind).collect();
            let attempts: Vec<_> = commit.attempts.iter().map(|attempt| attempt.outcome).collect();
            let work = head.work.as_ref().map(|work| (&work.kind, work.visit, work.attempt));
            format!(
                "process {}: commit #{n} v{} (token: {with_token}) {:?} in {}, work {work:?}, events {events:?}, attempts {attempts:?}: {outcome}",
                self.life.number, head.version, head.phase, head.status
            )
        });
        if let Ok(receipt) = &result {
            if receipt.promoted.is_some() || !receipt.queued {
                let mut planted = self.planted.lock();
                planted.announced.extend(receipt.promoted);
                planted.announced.push(commit.order.id());
            }
            let verdict = world.judge.lock().applied(world.memory.now(), &commit, receipt);
            if world.check(verdict) {
                let counters = world.memory.counters().await.unwrap_or_default();
                let verdict = world.judge.lock().counters_are_true(&counters);
                world.check(verdict);
                self.stock_is_true().await;
            }
        }
        result
    }

    /// What a planted bug makes of a commit on its way.
    fn sabotaged(&self, commit: &Commit) -> Commit {
        let mut commit = commit.clone();
        match self.world.plan.plant {
            Some(Plant::TwoHeads) => commit.lane.enter = None,
            Some(Plant::NoHead) => commit.lane.leave = None,
            Some(Plant::KeyUnchecked) => commit.keys.clear(),
            Some(Plant::ItemMissing) => commit.enqueue = None,
            Some(Plant::ItemsUnordered) => {
                if let Some(entry) = &mut commit.enqueue {
                    entry.lane = commit.order.id().to_string();
                }
            }
            Some(Plant::HoldReleasedTwice) => {
                let given_back = |line: &&LedgerLine| *line.from == *HELD && *line.to == *ON_HAND;
                let again: Vec<LedgerLine> = commit.ledger.iter().filter(given_back).cloned().collect();
                commit.ledger.extend(again.into_iter().map(|line| LedgerLine {
                    once_id: format!("{}.again", line.once_id).into(),
                    ..line
                }));
            }
            Some(Plant::StockNotTaken) => commit.ledger.retain(|line| *line.to != *HELD),
            Some(Plant::StaleAnswerCounts) => {
                if let Expect::At { version, .. } = commit.expect {
                    commit.expect = Expect::At { version, token: None };
                }
            }
            _ => {}
        }
        commit
    }

    fn tell(&self, answer: Answer, result: Result<Receipt, CommitError>) {
        if self.life.is_dead() {
            return self.bury(answer);
        }
        // Nobody may wait any more.
        let _ = answer.send(result);
    }

    /// Nobody will ever answer: the process that asked is dead.
    fn bury(&self, answer: Answer) {
        std::mem::forget(answer);
    }

    /// A way to the store and back, on which things can take time, or fail.
    async fn way(&self, what: &'static str) -> Result<(), StoreError> {
        self.world.deed();
        self.life.gate().await;
        let name = (what, self.life.number, self.world.nth((what, self.life.number)));
        let mut rolls = self.world.rolls(("way", name));
        match rolls.below(12) {
            0 => tokio::time::sleep(Duration::from_millis(1 + rolls.below(5))).await,
            1..=3 => tokio::task::yield_now().await,
            _ => {}
        }
        self.life.gate().await;
        if self.world.goes_wrong(Fault::ReadFails, name) {
            self.world
                .trace(|| format!("process {}: {what} fails", self.life.number));
            return Err(broken(what));
        }
        Ok(())
    }
}

/// Puts the step after it in the place of a wait for a person.
fn skip_approval(commit: &mut Commit) {
    let head = &mut Arc::make_mut(&mut commit.order).head;
    let order_type = types::by_hash(head.type_hash);
    let status = order_type
        .as_ref()
        .and_then(|order_type| order_type.status(&head.status));
    if let (Some(status), Some(work)) = (status, &mut head.work)
        && let WorkKind::Approval(at) = &work.kind
        && let Some(next) = status.steps.get(at.index as usize + 1)
    {
        work.kind = WorkKind::Step(StepAt {
            index: at.index + 1,
            name: next.clone(),
        });
        work.due_at = Some(head.updated_at);
        head.visits += 1;
        work.visit = head.visits;
    }
}

fn broken(what: &'static str) -> StoreError {
    StoreError::failed(what, std::io::Error::other("failed on purpose"))
}

#[async_trait]
impl Store for FaultyStore {
    fn commit(&self, commits: Vec<Commit>) -> Vec<Ticket> {
        let stage = |commit: Commit| {
            let (answer, ticket) = Ticket::new();
            if let Err(mpsc::error::SendError((_, answer))) = self.staged.send((commit, answer)) {
                self.bury(answer);
            }
            ticket
        };
        commits.into_iter().map(stage).collect()
    }

    async fn claim(&self, max: usize, lease: Duration) -> Result<Claims, StoreError> {
        self.way("claim").await?;
        let world = &self.world;
        if world.has(Plant::LeaseIgnored) {
            let held: Vec<Token> = world
                .judge
                .lock()
                .orders()
                .filter_map(|(_, known)| known.held)
                .map(|held| held.0)
                .collect();
            world.memory.release(&held).await?;
        }
        let mut claims = world.memory.claim(max, lease).await?;
        if world.has(Plant::WakeOnlyInQueue) {
            let announced = std::mem::take(&mut self.planted.lock().announced);
            let (known, unknown): (Vec<_>, Vec<_>) = claims
                .claims
                .into_iter()
                .partition(|claim| announced.contains(&claim.order.id()));
            let tokens: Vec<Token> = unknown.iter().map(|claim| claim.token).collect();
            world.memory.release(&tokens).await?;
            claims.claims = known;
            claims.next_due_at = None;
        }
        let verdict = world.judge.lock().claimed(world.memory.now(), &claims);
        world.check(verdict);
        for claim in &claims.claims {
            world.trace(|| {
                let work = claim
                    .order
                    .head
                    .work
                    .as_ref()
                    .map(|work| (&work.kind, work.visit, work.attempt));
                format!(
                    "process {}: claims #{} for {work:?}",
                    self.life.number,
                    world.name(claim.order.id())
                )
            });
        }
        let name = ("claims", self.life.number, world.nth(("claims", self.life.number)));
        if world.goes_wrong(Fault::WakeLost, name) {
            claims.next_due_at = None;
        }
        if world.goes_wrong(Fault::ReadFails, name) {
            world.trace(|| format!("process {}: the answer to a claim is lost", self.life.number));
            return Err(broken("claim"));
        }
        self.life.gate().await;
        Ok(claims)
    }

    async fn claim_items(&self, asked: &QueueClaim) -> Result<ItemClaims, StoreError> {
        self.way("claim_items").await?;
        let world = &self.world;
        let claims = world.memory.claim_items(asked).await?;
        let verdict = world.judge.lock().items_claimed(world.memory.now(), &claims);
        world.check(verdict);
        let name = ("items", self.life.number, world.nth(("items", self.life.number)));
        if world.goes_wrong(Fault::ReadFails, name) {
            world.trace(|| format!("process {}: the answer to a claim of items is lost", self.life.number));
            return Err(broken("claim_items"));
        }
        self.life.gate().await;
        Ok(claims)
    }

    async fn settle_item(&self, token: &ItemToken, outcome: &ItemOutcome) -> Result<Option<String>, StoreError> {
        self.way("settle_item").await?;
        let world = &self.world;
        let settled = match world.has(Plant::ItemRepeats) {
            true => Some("finished".to_owned()),
            false => world.memory.settle_item(token, outcome).await?,
        };
        if settled.is_some() {
            world.judge.lock().item_settled(world.memory.now(), token, outcome);
        }
        self.life.gate().await;
        Ok(settled)
    }

    async fn renew_item(&self, token: &ItemToken, lease: Duration) -> Result<Option<Timestamp>, StoreError> {
        self.way("renew_item").await?;
        self.world.memory.renew_item(token, lease).await
    }

    async fn dead_items(&self, queue: &str, after: u64, max: usize) -> Result<Vec<DeadItem>, StoreError> {
        self.way("dead_items").await?;
        self.world.memory.dead_items(queue, after, max).await
    }

    async fn move_dead_items(&self, queue: &str, positions: &[u64], to: DeadItemMove) -> Result<u64, StoreError> {
        self.way("move_dead_items").await?;
        self.world.memory.move_dead_items(queue, positions, to).await
    }

    async fn claim_work(&self, asked: &QueueClaim) -> Result<WorkClaims, StoreError> {
        self.way("claim_work").await?;
        let world = &self.world;
        if world.has(Plant::WorkerLeaseIgnored) {
            let held: Vec<Token> = world.judge.lock().held_by_workers();
            world.memory.release(&held).await?;
        }
        let mut claims = world.memory.claim_work(asked).await?;
        let verdict = world.judge.lock().pulled(world.memory.now(), &claims);
        world.check(verdict);
        for claim in &claims.claims {
            world.trace(|| {
                let name = world.name(claim.order.id());
                format!(
                    "process {}: {} claims #{name}, lost before: {:?}",
                    self.life.number, asked.worker, claim.lost
                )
            });
        }
        let name = ("pulls", self.life.number, world.nth(("pulls", self.life.number)));
        if world.goes_wrong(Fault::WakeLost, name) {
            claims.next_due_at = None;
        }
        if world.goes_wrong(Fault::ReadFails, name) {
            world.trace(|| format!("process {}: the answer to a claim of work is lost", self.life.number));
            return Err(broken("claim_work"));
        }
        self.life.gate().await;
        Ok(claims)
    }

    async fn queues(&self) -> Result<Vec<QueueCount>, StoreError> {
        self.way("queues").await?;
        self.world.memory.queues().await
    }

    async fn renew(&self, token: &Token, lease: Duration) -> Result<Timestamp, CommitError> {
        self.way("renew").await?;
        let answer = match self.planted.lock().early.contains(token) {
            true => Ok(self.world.memory.now()),
            false => Err(CommitError::TokenStale),
        };
        let answer = match answer {
            Ok(until) => Ok(until),
            Err(_) => {
                let answer = self.world.memory.renew(token, lease).await;
                let verdict = self.world.judge.lock().renewed(self.life.number, token, &answer);
                self.world.check(verdict);
                answer
            }
        };
        self.life.gate().await;
        answer
    }

    async fn release(&self, tokens: &[Token]) -> Result<(), StoreError> {
        self.way("release").await?;
        self.world.memory.release(tokens).await?;
        self.world.judge.lock().released(tokens);
        Ok(())
    }

    async fn order(&self, id: OrderId) -> Result<Option<Stored>, StoreError> {
        self.way("order").await?;
        let mut answer = self.world.memory.order(id).await;
        if self.world.has(Plant::CallbackTurnedAway)
            && let Ok(Some(stored)) = &mut answer
            && let Some(work) = &mut Arc::make_mut(&mut stored.order).head.work
        {
            work.awaiting = None;
        }
        self.life.gate().await;
        answer
    }

    async fn key(&self, scope: &str, key: &str) -> Result<Option<(OrderId, [u8; 32])>, StoreError> {
        self.way("key").await?;
        self.world.memory.key(scope, key).await
    }

    async fn history(&self, id: OrderId, after: u64, max: usize) -> Result<Vec<Event>, StoreError> {
        self.way("history").await?;
        self.world.memory.history(id, after, max).await
    }

    async fn attempts(&self, id: OrderId, after: u64, max: usize) -> Result<Vec<Attempt>, StoreError> {
        self.way("attempts").await?;
        if self.world.has(Plant::OwnCommitTakenForStale) {
            return Ok(Vec::new());
        }
        self.world.memory.attempts(id, after, max).await
    }

    async fn put_type(&self, source: &TypeSource) -> Result<(), StoreError> {
        self.way("put_type").await?;
        self.world.memory.put_type(source).await
    }

    async fn type_source(&self, hash: TypeHash) -> Result<Option<TypeSource>, StoreError> {
        self.way("type_source").await?;
        self.world.memory.type_source(hash).await
    }

    async fn live_types(&self) -> Result<Vec<(TypeHash, u64)>, StoreError> {
        self.way("live_types").await?;
        self.world.memory.live_types().await
    }

    async fn feed(&self, from: FeedStart, max: usize) -> Result<FeedPage, StoreError> {
        self.way("feed").await?;
        let mut page = self.world.memory.feed(from, max).await?;
        match self.world.plan.plant {
            Some(Plant::FeedSkips) => page.events.retain(|event| event.cursor.position % 17 != 0),
            Some(Plant::FeedSwaps) => page.events.reverse(),
            _ => {}
        }
        self.life.gate().await;
        Ok(page)
    }

    async fn post(&self, posting: &Posting) -> Result<Posted, PostError> {
        self.post_posting(posting).await
    }

    async fn accounts(&self, names: &[String]) -> Result<Vec<Account>, StoreError> {
        self.way("accounts").await?;
        self.world.memory.accounts(names).await
    }

    async fn accounts_after(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<Account>, StoreError> {
        self.way("accounts_after").await?;
        self.world.memory.accounts_after(prefix, after, max).await
    }

    async fn ledger_of(&self, id: OrderId) -> Result<Vec<LedgerLine>, StoreError> {
        self.way("ledger_of").await?;
        self.world.memory.ledger_of(id).await
    }

    async fn record(&self, kind: &str, key: &str) -> Result<Option<Record>, StoreError> {
        self.way("record").await?;
        let record = self.world.memory.record(kind, key).await;
        self.life.gate().await;
        record
    }

    async fn records_after(&self, kind: &str, after: Option<&str>, max: usize) -> Result<Vec<Record>, StoreError> {
        self.way("records_after").await?;
        self.world.memory.records_after(kind, after, max).await
    }

    async fn put_record(&self, record: &Record) -> Result<(), PutError> {
        self.put_one_record(record).await
    }

    async fn list(&self, query: &ListQuery) -> Result<OrderPage, StoreError> {
        self.way("list").await?;
        self.world.memory.list(query).await
    }

    async fn causes(&self, max: usize) -> Result<Vec<Cause>, StoreError> {
        self.way("causes").await?;
        self.world.memory.causes(max).await
    }

    async fn counters(&self) -> Result<Counters, StoreError> {
        self.way("counters").await?;
        self.world.memory.counters().await
    }

    async fn retain(&self, before: Timestamp, max: usize) -> Result<usize, StoreError> {
        self.way("retain").await?;
        self.world.memory.retain(before, max).await
    }

    async fn backup(&self, to: &Path, progress: &(dyn Fn(u64, u64) + Send + Sync)) -> Result<(), StoreError> {
        self.world.memory.backup(to, progress).await
    }

    fn position(&self) -> watch::Receiver<u64> {
        self.world.memory.position()
    }

    fn now(&self) -> Timestamp {
        self.world.memory.now()
    }

    fn capabilities(&self) -> Capabilities {
        self.world.memory.capabilities()
    }

    fn subscriptions(&self) -> Option<&dyn SubscriptionStore> {
        Some(self)
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.way("health").await
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
