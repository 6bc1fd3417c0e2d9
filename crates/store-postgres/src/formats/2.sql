-- Format 2 only adds: the ledger and records, queues of statuses, subscriptions. Nodes of format 1 go on beside it.

-- The ledger. An account's row is its lock; what stands where is in `balances`, and every one of those can be proved by
-- adding up `ledger_entries` and `ledger_flows`. Names are compared by their bytes, so that pages come in one order
-- whatever the database's collation.
CREATE TABLE comanda.accounts (name text COLLATE "C" PRIMARY KEY);
CREATE TABLE comanda.balances (
    account text COLLATE "C", place text COLLATE "C", quantity bigint NOT NULL, PRIMARY KEY (account, place)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0);
-- What each order has moved; `once` makes it happen once.
CREATE TABLE comanda.ledger_entries (
    id uuid, once text COLLATE "C", account text COLLATE "C", source text NOT NULL, target text NOT NULL,
    quantity bigint NOT NULL, PRIMARY KEY (id, once, account)
);
-- What postings and orders that are gone have moved, summed up.
CREATE TABLE comanda.ledger_flows (
    account text COLLATE "C", source text COLLATE "C", target text COLLATE "C", quantity bigint NOT NULL,
    PRIMARY KEY (account, source, target)
);
-- The ids of postings, so that each happens once.
CREATE TABLE comanda.postings (once text PRIMARY KEY, fingerprint bytea NOT NULL, at timestamptz NOT NULL);
CREATE INDEX postings_by_time ON comanda.postings (at);

-- Small documents that belong to no order.
CREATE TABLE comanda.records (
    kind text COLLATE "C", key text COLLATE "C", version bigint NOT NULL, value text NOT NULL, PRIMARY KEY (kind, key)
);

-- Items of statuses' queues. `holds`: it stands in its lane. `head`: it is the one of its lane that can be handed out once
-- `due_at` has come; while it is leased, that is when the lease ends. Positions are drawn under the feed's lock, and so
-- are in commit order.
CREATE SEQUENCE comanda.item_position;
CREATE TABLE comanda.items (
    position bigint PRIMARY KEY, queue text NOT NULL, id uuid NOT NULL, status text NOT NULL, version bigint NOT NULL,
    at timestamptz NOT NULL, lane text NOT NULL, parks boolean NOT NULL, attempts_max integer NOT NULL,
    attempt integer NOT NULL, due_at timestamptz NOT NULL, secret uuid, worker text, died_at timestamptz, reason text,
    holds boolean NOT NULL, head boolean NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0);
CREATE INDEX items_by_order ON comanda.items (id);
CREATE INDEX items_by_lane ON comanda.items (queue, lane, position) WHERE holds;
CREATE INDEX items_heads ON comanda.items (queue, due_at, position) WHERE head;
CREATE INDEX items_alive ON comanda.items (queue, position) WHERE died_at IS NULL;
CREATE INDEX items_dead ON comanda.items (queue, position) WHERE died_at IS NOT NULL;
CREATE INDEX items_leased ON comanda.items (queue, due_at) WHERE secret IS NOT NULL;

-- Who wants which events, and how far each has come. `delivery` counts what was tried. `node` delivers it while it lives;
-- `hold` moves whenever another node takes it, or anyone changes it, and what was worked under an older one counts no
-- more.
CREATE TABLE comanda.subscriptions (
    id text COLLATE "C" PRIMARY KEY, spec text NOT NULL, epoch bigint, position bigint, delivery bigint NOT NULL DEFAULT 0,
    node uuid, hold bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
CREATE TABLE comanda.subscription_exceptions (
    subscription text COLLATE "C", order_id uuid, exception text NOT NULL, PRIMARY KEY (subscription, order_id)
);
CREATE TABLE comanda.deliveries (
    subscription text COLLATE "C", number bigint, delivery text NOT NULL, PRIMARY KEY (subscription, number)
) WITH (autovacuum_vacuum_scale_factor = 0.02);
