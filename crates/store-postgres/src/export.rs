//! The database in pieces, as they are compared with those of the store that was moved into it.

use std::sync::Arc;

use comanda_model::{Json, LedgerLine, OrderId, Token, TypeHash};
use comanda_store::piece::{Counters, Piece, WholeItem, WholeOrder, WholeSubscription};
use comanda_store::subscription::{Delivery, Exception};
use comanda_store::{FeedStart, KeyClaim, Record, StoreError, TypeSource, Worker};
use tokio::sync::mpsc::Sender;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::failure::{Failure, corrupt};
use crate::read;
use crate::server::{Parameter, Server};
use crate::text::from_column;

const WHAT: &str = "read what was moved";
/// How many rows are read at a time.
const PAGE: i64 = 500;

/// A database that is read in pieces. Nobody may commit to it meanwhile.
#[derive(Debug)]
pub(crate) struct Export {
    server: Server,
}

fn text(row: &Row, name: &str) -> String {
    from_column(row.get(name))
}

fn number(row: &Row, name: &str) -> u64 {
    u64::try_from(row.get::<_, i64>(name)).unwrap_or(0)
}

fn small(row: &Row, name: &str) -> u32 {
    u32::try_from(row.get::<_, i32>(name)).unwrap_or(0)
}

fn fingerprint(row: &Row) -> Result<[u8; 32], StoreError> {
    let bytes: Vec<u8> = row.get("fingerprint");
    bytes
        .try_into()
        .map_err(|_| corrupt("a fingerprint", "it is no SHA-256"))
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| corrupt(what, error.to_string()))
}

/// Whoever compares has seen enough.
fn gone<T>(_: T) -> StoreError {
    StoreError::failed(WHAT, std::io::Error::other("the comparison has ended"))
}

impl Export {
    pub(crate) const fn new(server: Server) -> Self {
        Self { server }
    }

    async fn ask(&self, statement: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, StoreError> {
        let asked = self.server.ask(WHAT, statement, parameters).await;
        asked.map_err(Failure::into_error)
    }

    /// The feed's epoch.
    pub(crate) async fn epoch(&self) -> Result<u64, StoreError> {
        let (start, after) = read::feed_start(FeedStart::Newest);
        let parameters: [Parameter<'_>; 3] = [(&start, Type::INT2), (&after, Type::INT8), (&0_i32, Type::INT4)];
        let rows = self.ask(read::FEED, &parameters).await?;
        Ok(read::feed_page(&rows, FeedStart::Newest, 0)?.next.epoch)
    }

    /// Hands over every piece, in the order of [`Piece`].
    pub(crate) async fn read(&self, to: &Sender<Piece>) -> Result<(), StoreError> {
        self.types(to).await?;
        self.orders(to).await?;
        self.queues(to).await?;
        self.ledger(to).await?;
        self.records(to).await?;
        self.subscriptions(to).await?;
        self.notices(to).await?;
        self.counters(to).await
    }

    async fn types(&self, to: &Sender<Piece>) -> Result<(), StoreError> {
        for row in self
            .ask("SELECT hash, name, source FROM comanda.types ORDER BY hash", &[])
            .await?
        {
            let hash: Vec<u8> = row.get("hash");
            let hash = hash
                .try_into()
                .map_err(|_| corrupt("a type", "its hash is no SHA-256"))?;
            let source = TypeSource {
                hash: TypeHash(hash),
                name: text(&row, "name"),
                source: text(&row, "source"),
            };
            to.send(Piece::Type(source)).await.map_err(gone)?;
        }
        Ok(())
    }

    async fn orders(&self, to: &Sender<Piece>) -> Result<(), StoreError> {
        let mut after = 0_i64;
        loop {
            let parameters: [Parameter<'_>; 2] = [(&after, Type::INT8), (&PAGE, Type::INT8)];
            let page = self
                .ask(
                    "SELECT o.seq, o.id, h.lane_position, \
                     EXISTS (SELECT 1 FROM comanda.lanes l WHERE l.name = h.lane AND l.active = h.id) AS heads, \
                     EXISTS (SELECT 1 FROM comanda.lane_waiting w WHERE w.lane = h.lane \
                         AND w.position = h.lane_position AND w.id = h.id) AS waits, \
                     (SELECT d.worker_queue FROM comanda.due d WHERE d.id = o.id) AS worker_queue \
                     FROM comanda.orders o LEFT JOIN comanda.heads h ON h.id = o.id WHERE o.seq > $1 \
                     ORDER BY o.seq LIMIT $2",
                    &parameters,
                )
                .await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.get("seq");
            let ids: Vec<Uuid> = page.iter().map(|row| row.get("id")).collect();
            for whole in self.whole(&page, &ids).await? {
                to.send(Piece::Order(Box::new(whole))).await.map_err(gone)?;
            }
        }
    }

    /// Orders with everything that belongs to them; each kind is read at once, in the orders' order.
    async fn whole(&self, page: &[Row], ids: &[Uuid]) -> Result<Vec<WholeOrder>, StoreError> {
        let of = async |select: &str, by: &str| {
            let statement = format!(
                "SELECT t.* FROM unnest($1) WITH ORDINALITY AS n(wanted, place) JOIN ({select}) AS t ON t.id = n.wanted \
                 ORDER BY n.place, {by}"
            );
            let rows = self.ask(&statement, &[(&ids, Type::UUID_ARRAY)]).await?;
            Ok::<_, StoreError>(rows.into_iter().peekable())
        };
        let orders = self
            .ask("SELECT * FROM comanda.read($1)", &[(&ids, Type::UUID_ARRAY)])
            .await?;
        let mut events = of("SELECT * FROM comanda.events", "t.number").await?;
        let mut attempts = of("SELECT * FROM comanda.attempts", "t.number").await?;
        let mut keys = of(
            "SELECT id, scope, key, fingerprint, expires_at FROM comanda.keys",
            "t.scope COLLATE \"C\", t.key COLLATE \"C\"",
        )
        .await?;
        let mut lines = of("SELECT * FROM comanda.ledger_entries", "t.once, t.account").await?;
        let mut items = of("SELECT * FROM comanda.items", "t.position").await?;
        let mut whole = Vec::with_capacity(page.len());
        for (row, place) in orders.iter().zip(page) {
            let id: Uuid = row.get("id");
            if id != place.get::<_, Uuid>("id") {
                return Err(corrupt(format!("order {}", OrderId(id)), "its head is missing"));
            }
            let is_its = |row: &Row| row.get::<_, Uuid>("id") == id;
            let stored = read::stored(row)?;
            let mut order = Arc::unwrap_or_clone(stored.order);
            order.results = Vec::new();
            let mut one = WholeOrder {
                seq: number(place, "seq"),
                order,
                events: Vec::new(),
                attempts: Vec::new(),
                keys: Vec::new(),
                lane_position: place
                    .get::<_, Option<i64>>("lane_position")
                    .and_then(|position| u64::try_from(position).ok()),
                heads_lane: if place.get("heads") {
                    Some(true)
                } else if place.get("waits") {
                    Some(false)
                } else {
                    None
                },
                lines: Vec::new(),
                items: Vec::new(),
                worker: worker(place, stored.claim, stored.worker),
            };
            while let Some(row) = events.next_if(is_its) {
                one.events.push((number(&row, "position"), read::event(&row)?));
            }
            while let Some(row) = attempts.next_if(is_its) {
                one.attempts.push(read::attempt(&row)?);
            }
            while let Some(row) = keys.next_if(is_its) {
                one.keys.push(KeyClaim {
                    scope: text(&row, "scope"),
                    key: text(&row, "key"),
                    fingerprint: fingerprint(&row)?,
                    expires_at: row.get("expires_at"),
                });
            }
            while let Some(row) = lines.next_if(is_its) {
                one.lines.push(LedgerLine {
                    once_id: text(&row, "once").into(),
                    account: text(&row, "account").into(),
                    from: text(&row, "source").into(),
                    to: text(&row, "target").into(),
                    quantity: u32::try_from(number(&row, "quantity")).unwrap_or(u32::MAX),
                });
            }
            while let Some(row) = items.next_if(is_its) {
                one.items.push(item(&row));
            }
            whole.push(one);
        }
        if whole.len() < page.len() {
            return Err(corrupt("an order", "its head is missing"));
        }
        Ok(whole)
    }

    async fn queues(&self, to: &Sender<Piece>) -> Result<(), StoreError> {
        let statement = "SELECT DISTINCT a COLLATE \"C\" AS name FROM (SELECT kind, a FROM comanda.tally UNION ALL \
             SELECT kind, a FROM comanda.tally_changes) AS t WHERE kind IN ('q', 'd') ORDER BY 1";
        for row in self.ask(statement, &[]).await? {
            to.send(Piece::Queue(text(&row, "name"))).await.map_err(gone)?;
        }
        Ok(())
    }

    async fn ledger(&self, to: &Sender<Piece>) -> Result<(), StoreError> {
        let statement = "SELECT account, place, quantity FROM comanda.balances ORDER BY account, place";
        for row in self.ask(statement, &[]).await? {
            let balance = Piece::Balance {
                account: text(&row, "account"),
                place: text(&row, "place"),
                quantity: row.get("quantity"),
            };
            to.send(balance).await.map_err(gone)?;
        }
        let statement =
            "SELECT account, source, target, quantity FROM comanda.ledger_flows ORDER BY account, source, target";
        for row in self.ask(statement, &[]).await? {
            let flow = Piece::Flow {
                account: text(&row, "account"),
                from: text(&row, "source"),
                to: text(&row, "target"),
                quantity: row.get("quantity"),
            };
            to.send(flow).await.map_err(gone)?;
        }
        let statement = "SELECT once, fingerprint, at FROM comanda.postings ORDER BY once COLLATE \"C\"";
        for row in self.ask(statement, &[]).await? {
            let posting = Piece::Posting {
                once_id: text(&row, "once"),
                fingerprint: fingerprint(&row)?,
                at: row.get("at"),
            };
            to.send(posting).await.map_err(gone)?;
        }
        Ok(())
    }

    async fn records(&self, to: &Sender<Piece>) -> Result<(), StoreError> {
        let (mut kind, mut key) = (String::new(), String::new());
        loop {
            let statement = "SELECT kind, key, version, value FROM comanda.records WHERE (kind, key) > ($1, $2) \
                 ORDER BY kind, key LIMIT $3";
            let parameters: [Parameter<'_>; 3] = [(&kind, Type::TEXT), (&key, Type::TEXT), (&PAGE, Type::INT8)];
            let rows = self.ask(statement, &parameters).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            let after = (last.get("kind"), last.get("key"));
            for row in &rows {
                let record = Record {
                    kind: text(row, "kind"),
                    key: text(row, "key"),
                    version: number(row, "version"),
                    value: Json::from_valid(row.get::<_, String>("value")),
                };
                to.send(Piece::Record(record)).await.map_err(gone)?;
            }
            (kind, key) = after;
        }
    }

    async fn subscriptions(&self, to: &Sender<Piece>) -> Result<(), StoreError> {
        let current = self.epoch().await?;
        let statement = "SELECT s.spec, s.epoch, s.position, s.delivery, ARRAY(SELECT x.exception \
             FROM comanda.subscription_exceptions x WHERE x.subscription = s.id ORDER BY x.order_id) AS exceptions \
             FROM comanda.subscriptions s ORDER BY s.id";
        for row in self.ask(statement, &[]).await? {
            let exceptions: Vec<String> = row.get("exceptions");
            let exceptions: Result<Vec<Exception>, StoreError> =
                exceptions.iter().map(|text| parse("an exception", text)).collect();
            let cursor = row
                .get::<_, Option<i64>>("epoch")
                .zip(row.get::<_, Option<i64>>("position"));
            let whole = WholeSubscription {
                subscription: parse("a subscription", row.get("spec"))?,
                position: cursor.map(|(epoch, position)| {
                    let is_current = u64::try_from(epoch).is_ok_and(|epoch| epoch == current);
                    u64::try_from(position).ok().filter(|_| is_current)
                }),
                exceptions: exceptions?,
                deliveries_count: number(&row, "delivery"),
            };
            to.send(Piece::Subscription(Box::new(whole))).await.map_err(gone)?;
        }
        let ids = self
            .ask("SELECT id FROM comanda.subscriptions ORDER BY id", &[])
            .await?;
        for id in ids {
            let id: String = id.get("id");
            let statement = "SELECT number, delivery FROM comanda.deliveries WHERE subscription = $1 ORDER BY number";
            for row in self.ask(statement, &[(&id, Type::TEXT)]).await? {
                let delivery: Delivery = parse("a delivery", row.get("delivery"))?;
                let piece = Piece::Delivery(from_column(id.clone()), delivery);
                to.send(piece).await.map_err(gone)?;
            }
        }
        Ok(())
    }

    async fn notices(&self, to: &Sender<Piece>) -> Result<(), StoreError> {
        let mut after = 0_i64;
        loop {
            let statement =
                "SELECT position, notice FROM comanda.notices WHERE position > $1 ORDER BY position LIMIT $2";
            let parameters: [Parameter<'_>; 2] = [(&after, Type::INT8), (&PAGE, Type::INT8)];
            let rows = self.ask(statement, &parameters).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = last.get("position");
            for row in &rows {
                let piece = Piece::Notice(number(row, "position"), parse("a notice", row.get("notice"))?);
                to.send(piece).await.map_err(gone)?;
            }
        }
    }

    async fn counters(&self, to: &Sender<Piece>) -> Result<(), StoreError> {
        let statement = "SELECT (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM comanda.order_seq) AS seq, \
             (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM comanda.feed_position) AS position, \
             (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM comanda.lane_position) AS lane_position, \
             (SELECT value FROM comanda.meta WHERE name = 'retained') AS retained";
        for row in self.ask(statement, &[]).await? {
            let counters = Counters {
                seq: number(&row, "seq"),
                position: number(&row, "position"),
                lane_position: number(&row, "lane_position"),
                retained: number(&row, "retained"),
            };
            to.send(Piece::Counters(counters)).await.map_err(gone)?;
        }
        Ok(())
    }
}

fn item(row: &Row) -> WholeItem {
    let reason = row.get::<_, Option<String>>("reason").map(from_column);
    let worker = row.get::<_, Option<String>>("worker").map(from_column);
    WholeItem {
        position: number(row, "position"),
        queue: text(row, "queue").into(),
        status: text(row, "status").into(),
        version: number(row, "version"),
        at: row.get("at"),
        lane: text(row, "lane"),
        parks: row.get("parks"),
        attempts_max: small(row, "attempts_max"),
        attempt: small(row, "attempt"),
        due_at: row.get("due_at"),
        lease: row.get::<_, Option<Uuid>>("secret").zip(worker),
        died: row.get::<_, Option<jiff::Timestamp>>("died_at").zip(reason),
    }
}

/// The claim of a worker from outside. Claims of nodes are none of a store that nobody serves.
fn worker(
    row: &Row,
    claim: Option<(Token, jiff::Timestamp)>,
    worker: Option<Worker>,
) -> Option<(Token, String, Worker, jiff::Timestamp)> {
    let (token, until) = claim?;
    let queue: Option<String> = row.get("worker_queue");
    Some((token, from_column(queue?), worker?, until))
}
