-- The tables, and the functions that change them. Everything stands in the schema `comanda`.
--
-- PostgreSQL sums its pages (`initdb --data-checksums`), so rows carry no checksums of their own.
-- The functions are the only ones that write: one call is one transaction is one round trip, so that no lock is ever
-- held across a network, and a client that hangs holds nothing.

CREATE SCHEMA IF NOT EXISTS comanda;

-- Facts about the store as a whole: `format`, `epoch`, and `retained`, the feed position that retention has reached.
CREATE TABLE comanda.meta (name text PRIMARY KEY, value bigint NOT NULL);
INSERT INTO comanda.meta VALUES ('retained', 0), ('epoch', 1 + floor(random() * 4294967295)::bigint);

-- `feed_position` is drawn under the feed's lock only, so its order is the order in which events become visible.
CREATE SEQUENCE comanda.order_seq;
CREATE SEQUENCE comanda.lane_position;
CREATE SEQUENCE comanda.feed_position;

-- Sources of types by hash.
CREATE TABLE comanda.types (hash bytea PRIMARY KEY, name text NOT NULL, source text NOT NULL);

-- What was accepted. Only `data` ever changes, on an edit. It is text, not jsonb: numbers keep their digits.
CREATE TABLE comanda.orders (
    id uuid PRIMARY KEY, seq bigint NOT NULL UNIQUE, order_type text NOT NULL, key text, customer text, group_key text,
    status text NOT NULL, at timestamptz NOT NULL, traceparent text, data text NOT NULL
);
CREATE INDEX orders_by_customer ON comanda.orders (customer, seq) WHERE customer IS NOT NULL;
CREATE INDEX orders_by_group ON comanda.orders (group_key, seq) WHERE group_key IS NOT NULL;

-- What changes: rewritten by every commit. `head` is the whole of it as JSON; the columns are what SQL must know of
-- it. `due_at` is when the order is due at the head of its lane, `due_queued_at` when behind others; `queue` and `queued_at` are where and
-- since when its work waits at the head of its lane for a worker from outside. `lane` is where it
-- stands now; `lane_position` is kept when it leaves, for its return.
-- Free room in each page lets most updates stay in it, and vacuum comes early because every row is rewritten. No update spares the
-- indexes (HOT): `heads_final` has `updated_at`, which each commit moves.
CREATE TABLE comanda.heads (
    id uuid PRIMARY KEY, seq bigint NOT NULL, order_type text NOT NULL, status text NOT NULL, phase smallint NOT NULL,
    type_hash bytea NOT NULL, version bigint NOT NULL, commit_id uuid NOT NULL, events bigint NOT NULL,
    attempts bigint NOT NULL, updated_at timestamptz NOT NULL, due_at timestamptz, due_queued_at timestamptz,
    queue text, queued_at timestamptz, visit integer NOT NULL, attempt integer NOT NULL, cause text, lane text,
    lane_position bigint, head text NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX heads_by_status ON comanda.heads (status, seq);
CREATE INDEX heads_dead ON comanda.heads (seq) WHERE phase = 3;
CREATE INDEX heads_by_cause ON comanda.heads (cause, seq) WHERE phase = 3;
CREATE INDEX heads_final ON comanda.heads (updated_at) WHERE phase = 4;

-- Orders that need the engine, or a worker from outside, and who holds them. A row goes when the order needs nothing and
-- is held by nobody, so the table stays as small as the work that waits. `wake_at` is when the engine can claim the
-- order, and `pull_at` when a worker can from its `queue`: it is due, and no lease runs. A `node` holds it while it
-- lives; a `worker` until its lease ends, whatever becomes of our processes. Its rows live for milliseconds, so it is vacuumed by number of dead rows, not by share, and without a pause.
CREATE TABLE comanda.due (
    id uuid PRIMARY KEY, seq bigint NOT NULL, due_at timestamptz, queue text, queued_at timestamptz,
    visit integer NOT NULL, attempt integer NOT NULL,
    held_visit integer, held_attempt integer, secret uuid, lease_until timestamptz, node uuid,
    worker text, worker_queue text, since timestamptz,
    wake_at timestamptz GENERATED ALWAYS AS (CASE WHEN due_at IS NOT NULL THEN greatest(due_at, lease_until) END) STORED,
    pull_at timestamptz GENERATED ALWAYS AS (CASE WHEN queue IS NOT NULL THEN greatest(queued_at, lease_until) END) STORED
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0);
CREATE INDEX due_by_wake ON comanda.due (wake_at, seq) WHERE wake_at IS NOT NULL;
CREATE INDEX due_by_queue ON comanda.due (queue, pull_at, seq) WHERE queue IS NOT NULL;
CREATE INDEX due_by_worker ON comanda.due (worker_queue) WHERE worker_queue IS NOT NULL;

-- The processes at work, and until when each is known to live. When one is not heard of any more, what it holds can be
-- claimed at once, however long its leases.
CREATE TABLE comanda.nodes (id uuid PRIMARY KEY, alive_until timestamptz NOT NULL)
    WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Lanes that someone stands in: who is at the head, and who waits. A lane's row is its lock.
CREATE TABLE comanda.lanes (name text PRIMARY KEY, active uuid)
    WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0);
CREATE TABLE comanda.lane_waiting (lane text, position bigint, id uuid NOT NULL, PRIMARY KEY (lane, position))
    WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);

-- The feed; by order it is an order's history.
CREATE TABLE comanda.events (
    position bigint PRIMARY KEY, id uuid NOT NULL, number bigint NOT NULL, at timestamptz NOT NULL,
    kind smallint NOT NULL, from_status text, to_status text, by text NOT NULL, reason text, changed text,
    UNIQUE (id, number)
);

CREATE TABLE comanda.attempts (
    id uuid, number bigint, visit integer NOT NULL, attempt integer NOT NULL, step text NOT NULL,
    undo boolean NOT NULL, started_at timestamptz NOT NULL, ended_at timestamptz NOT NULL, outcome smallint NOT NULL,
    reason text, result text, PRIMARY KEY (id, number)
);

-- Keys. `commit_id` names the commit that set it, so that a commit that fails gives back only its own.
CREATE TABLE comanda.keys (
    scope text, key text, id uuid NOT NULL, fingerprint bytea NOT NULL, expires_at timestamptz, commit_id uuid NOT NULL,
    PRIMARY KEY (scope, key)
);
CREATE INDEX keys_by_order ON comanda.keys (id);
CREATE INDEX keys_expiring ON comanda.keys (expires_at) WHERE expires_at IS NOT NULL;

-- How many orders stand where (kind 's': type, status, phase), live on which version ('l': hash), are dead of
-- what ('c': type, cause), and are in which queue ('q': queue). Commits only add rows of changes: a counter row that every commit updated would be a lock
-- and a chain of dead versions. The two tables together are the truth at any moment; folding keeps the second small.
CREATE TABLE comanda.tally (kind "char", a text, b text, c text, n bigint NOT NULL, PRIMARY KEY (kind, a, b, c));
CREATE TABLE comanda.tally_changes (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind "char" NOT NULL, a text NOT NULL, b text NOT NULL,
    c text NOT NULL, n bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
