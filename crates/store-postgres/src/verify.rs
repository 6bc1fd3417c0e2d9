//! Looking through a whole database for anything that does not fit: what is derived from orders and heads (histories,
//! lanes, due work, keys, counts) is compared with what it is derived from.
//!
//! PostgreSQL sums its own pages, so this looks for what a wrong program or hand would leave, not for flipped bits. Each
//! check is one statement, and so sees one moment; nodes may go on working.

use comanda_store::StoreError;

use crate::failure::Failure;
use crate::server::Server;

/// The most faults that one check lists.
const FAULTS_MAX: i64 = 100;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many orders there are.
    pub orders: u64,
    /// How many events.
    pub events: u64,
    /// How many attempts.
    pub attempts: u64,
    /// How many keys.
    pub keys: u64,
    /// What is wrong; of each kind at most 100.
    pub faults: Vec<Fault>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where: the order's id, the lane, the key.
    pub what: String,
    /// How it shows.
    pub detail: String,
}

/// What must not be found, each with a statement that finds it.
const CHECKS: [(&str, &str); 18] = [
    (
        "an order without a head",
        "SELECT o.id::text FROM comanda.orders o WHERE NOT EXISTS (SELECT 1 FROM comanda.heads h WHERE h.id = o.id)",
    ),
    (
        "a head without an order",
        "SELECT h.id::text FROM comanda.heads h WHERE NOT EXISTS \
         (SELECT 1 FROM comanda.orders o WHERE o.id = h.id AND o.seq = h.seq AND o.order_type = h.order_type)",
    ),
    (
        "its columns do not say what its head says",
        "SELECT id::text FROM comanda.heads WHERE (head::json ->> 'version')::bigint <> version \
         OR (head::json ->> 'commit_id')::uuid <> commit_id OR (head::json ->> 'events')::bigint <> events \
         OR (head::json ->> 'attempts')::bigint <> attempts",
    ),
    (
        "its events are not numbered from 1 without a gap",
        "SELECT h.id::text FROM comanda.heads h LEFT JOIN (SELECT id, count(*) AS n, max(number) AS last \
         FROM comanda.events GROUP BY id) AS e ON e.id = h.id \
         WHERE h.events <> coalesce(e.n, 0) OR h.events <> coalesce(e.last, 0)",
    ),
    (
        "its attempts are not numbered from 1 without a gap",
        "SELECT h.id::text FROM comanda.heads h LEFT JOIN (SELECT id, count(*) AS n, max(number) AS last \
         FROM comanda.attempts GROUP BY id) AS a ON a.id = h.id \
         WHERE h.attempts <> coalesce(a.n, 0) OR h.attempts <> coalesce(a.last, 0)",
    ),
    (
        "events or attempts without an order",
        "SELECT id::text FROM (SELECT id FROM comanda.events UNION SELECT id FROM comanda.attempts) AS r \
         WHERE NOT EXISTS (SELECT 1 FROM comanda.heads h WHERE h.id = r.id)",
    ),
    (
        "it says that it stands in a lane where it neither is at the head nor waits",
        "SELECT h.id::text FROM comanda.heads h WHERE h.lane IS NOT NULL \
         AND NOT EXISTS (SELECT 1 FROM comanda.lanes l WHERE l.name = h.lane AND l.active = h.id) \
         AND NOT EXISTS (SELECT 1 FROM comanda.lane_waiting w WHERE w.lane = h.lane AND w.position = h.lane_position \
             AND w.id = h.id)",
    ),
    (
        "a lane whose members do not stand in it, or that has no head",
        "SELECT m.lane FROM (SELECT name AS lane, active AS id FROM comanda.lanes UNION ALL \
         SELECT lane, id FROM comanda.lane_waiting) AS m \
         WHERE m.id IS NULL OR NOT EXISTS (SELECT 1 FROM comanda.heads h WHERE h.id = m.id AND h.lane = m.lane) \
         OR NOT EXISTS (SELECT 1 FROM comanda.lanes l WHERE l.name = m.lane)",
    ),
    (
        "it is due or queued at another time than is known of it, or not at all",
        "SELECT coalesce(e.id, d.id)::text FROM (SELECT h.id, CASE WHEN h.lane IS NULL OR l.active = h.id \
             THEN h.due_at ELSE h.due_queued_at END AS due_at, \
             CASE WHEN h.lane IS NULL OR l.active = h.id THEN h.queue END AS queue, \
             CASE WHEN h.lane IS NULL OR l.active = h.id THEN h.queued_at END AS queued_at \
             FROM comanda.heads h LEFT JOIN comanda.lanes l ON l.name = h.lane) AS e \
         FULL JOIN comanda.due d ON d.id = e.id WHERE e.id IS NULL OR e.due_at IS DISTINCT FROM d.due_at \
         OR (e.queue, e.queued_at) IS DISTINCT FROM (d.queue, d.queued_at)",
    ),
    (
        "a key that leads to no order",
        "SELECT k.scope || ' ' || k.key FROM comanda.keys k \
         WHERE NOT EXISTS (SELECT 1 FROM comanda.orders o WHERE o.id = k.id)",
    ),
    (
        "a count that is not what a count of the orders finds",
        "SELECT kind::text || ' ' || a || ' ' || b || ' ' || c FROM (\
             SELECT kind, a, b, c, n FROM comanda.tally UNION ALL SELECT kind, a, b, c, n FROM comanda.tally_changes \
             UNION ALL SELECT 's', order_type, status, phase::text, -1 FROM comanda.heads \
             UNION ALL SELECT 'l', encode(type_hash, 'hex'), '', '', -1 FROM comanda.heads WHERE phase <> 4 \
             UNION ALL SELECT 'c', order_type, cause, '', -1 FROM comanda.heads WHERE cause IS NOT NULL \
             UNION ALL SELECT 'q', queue, '', '', -1 FROM comanda.due WHERE queue IS NOT NULL \
             UNION ALL SELECT CASE WHEN died_at IS NULL THEN 'q' ELSE 'd' END::\"char\", queue, '', '', -1 FROM comanda.items\
         ) AS t GROUP BY kind, a, b, c HAVING sum(n) <> 0",
    ),
    (
        "a lane of a queue that nobody heads, or several, or not the first",
        "SELECT queue || ' ' || lane FROM comanda.items WHERE holds GROUP BY queue, lane \
         HAVING count(*) FILTER (WHERE head) > 1 OR bool_or(head AND died_at IS NOT NULL) \
         OR ((array_agg(died_at ORDER BY position))[1] IS NULL AND count(*) FILTER (WHERE head) = 0) \
         OR (count(*) FILTER (WHERE head AND secret IS NULL) = 1 AND min(position) <> min(position) FILTER (WHERE head))",
    ),
    (
        "an item of a queue that leads to no order, or that stands where it should not",
        "SELECT queue || ' ' || position::text FROM comanda.items i \
         WHERE NOT EXISTS (SELECT 1 FROM comanda.orders o WHERE o.id = i.id) OR holds <> (died_at IS NULL OR parks) \
         OR (head AND NOT holds) OR (died_at IS NOT NULL AND secret IS NOT NULL)",
    ),
    (
        "a balance that is not what moved",
        "SELECT account || ' ' || place FROM (SELECT account, place, quantity FROM comanda.balances \
             UNION ALL SELECT account, source, quantity FROM comanda.ledger_entries \
             UNION ALL SELECT account, target, -quantity FROM comanda.ledger_entries \
             UNION ALL SELECT account, source, quantity FROM comanda.ledger_flows \
             UNION ALL SELECT account, target, -quantity FROM comanda.ledger_flows\
         ) AS t GROUP BY account, place HAVING sum(quantity) <> 0",
    ),
    (
        "a balance below zero",
        "SELECT account || ' ' || place FROM comanda.balances WHERE quantity < 0 AND place <> 'outside'",
    ),
    (
        "what is held is not what orders hold",
        "SELECT account FROM (SELECT account, quantity FROM comanda.balances WHERE place = 'held' \
             UNION ALL SELECT l ->> 'account', -(l ->> 'quantity')::bigint FROM comanda.heads h, \
             json_array_elements(h.head::json -> 'holds') AS o, json_array_elements(o -> 'lines') AS l \
             WHERE h.head LIKE '%\"holds\":[{%' AND o ->> 'state' = 'held'\
         ) AS t GROUP BY account HAVING sum(quantity) <> 0",
    ),
    (
        "movements of an order that is not there",
        "SELECT DISTINCT e.id::text FROM comanda.ledger_entries e \
         WHERE NOT EXISTS (SELECT 1 FROM comanda.orders o WHERE o.id = e.id)",
    ),
    (
        "exceptions or deliveries of a subscription that is not there",
        "SELECT subscription FROM (SELECT subscription FROM comanda.subscription_exceptions UNION \
         SELECT subscription FROM comanda.deliveries) AS r \
         WHERE NOT EXISTS (SELECT 1 FROM comanda.subscriptions s WHERE s.id = r.subscription)",
    ),
];

/// As [`CHECKS`], of what is kept from a format on.
const SINCE: [(u32, &str, &str); 1] = [(
    6,
    "there are more or fewer of them than were counted",
    "SELECT CASE kind WHEN 'p' THEN 'postings' ELSE 'movements of orders' END FROM (\
         SELECT kind, n FROM comanda.ledger_counts \
         UNION ALL SELECT 'p', -count(*) FROM comanda.postings WHERE counted \
         UNION ALL SELECT 'e', -count(*) FROM comanda.ledger_entries WHERE counted\
     ) AS t GROUP BY kind HAVING sum(n) <> 0",
)];

/// Runs every check on a database of a format.
pub(crate) async fn verify(server: &Server, format: u32) -> Result<Report, StoreError> {
    const WHAT: &str = "verify the database";
    let counts = "SELECT (SELECT count(*) FROM comanda.orders), (SELECT count(*) FROM comanda.events), \
                  (SELECT count(*) FROM comanda.attempts), (SELECT count(*) FROM comanda.keys)";
    let counts = server.ask(WHAT, counts, &[]).await.map_err(Failure::into_error)?;
    let count = |index: usize| {
        let count = counts.first().map_or(0, |row| row.get::<_, i64>(index));
        u64::try_from(count).unwrap_or(0)
    };
    let mut report = Report {
        orders: count(0),
        events: count(1),
        attempts: count(2),
        keys: count(3),
        faults: Vec::new(),
    };
    let since = SINCE.into_iter().filter(|(since, ..)| *since <= format);
    let since = since.map(|(_, detail, statement)| (detail, statement));
    for (detail, statement) in CHECKS.into_iter().chain(since) {
        let statement = format!("{statement} LIMIT {FAULTS_MAX}");
        let rows = server.ask(WHAT, &statement, &[]).await.map_err(Failure::into_error)?;
        report.faults.extend(rows.iter().map(|row| Fault {
            what: row.get::<_, Option<String>>(0).unwrap_or_default(),
            detail: detail.to_owned(),
        }));
    }
    Ok(report)
}
