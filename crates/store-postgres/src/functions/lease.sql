-- Claims of due work, their leases, and the nodes that hold them.

-- Claims up to `p_max` orders that are due, each under a new token; `next_at` is then since when it was due. Rows that others
-- are at are passed over. The last row, which names no order, tells when the next is due, and the clock.
--
-- Someone's open transaction keeps every row that was here since, dead but to be passed over. So a claim need not begin
-- at the beginning: only orders due from `p_from` on are looked at, and what is due next only as far as two seconds
-- ahead. `-infinity` looks at everything. What was due before, and has only come to be claimable since, `late_at` tells: it
-- comes first. (What is added to a column there keeps the other indexes out of it.) `passed` tells how many entries of the index that took.
--
-- `since` of what is claimed is the `clock` of the answer: a node whose answer is lost finds by it what it holds unknowingly.
CREATE OR REPLACE FUNCTION comanda.claim(p_max integer, p_lease bigint, p_node uuid, p_from timestamptz)
RETURNS TABLE (id uuid, visit integer, attempt integer, secret uuid, lease_until timestamptz, next_at timestamptz,
    clock timestamptz, passed bigint)
LANGUAGE plpgsql
-- The indexes give them in their order, however small the table was when this was planned: once for each connection.
SET plan_cache_mode = 'force_generic_plan'
SET jit = off
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock_timestamp(); v_until timestamptz := v_now + p_lease * interval '1 microsecond';
    v_ahead timestamptz := CASE WHEN p_from = '-infinity' THEN 'infinity' ELSE v_now + interval '2 seconds' END;
    v_index oid := 'comanda.due_by_wake'::regclass; v_passed bigint := pg_stat_get_xact_tuples_returned(v_index);
BEGIN
    RETURN QUERY
        WITH late AS MATERIALIZED (
            SELECT p.id, p.wake_at, p.seq FROM comanda.due p
            WHERE p_from > '-infinity' AND p.late_at >= p_from AND p.wake_at + interval '0' < least(p_from, v_now)
            ORDER BY p.late_at LIMIT p_max FOR UPDATE SKIP LOCKED
        ), since AS MATERIALIZED (
            SELECT p.id, p.wake_at, p.seq FROM comanda.due p WHERE p.wake_at >= p_from AND p.wake_at <= v_now
            ORDER BY p.wake_at, p.seq LIMIT p_max - (SELECT count(*) FROM late) FOR UPDATE SKIP LOCKED
        ), picked AS (
            SELECT * FROM late UNION ALL SELECT * FROM since
        ), taken AS (
            UPDATE comanda.due d SET held_visit = d.visit, held_attempt = d.attempt, secret = gen_random_uuid(),
                lease_until = v_until, node = p_node, worker = NULL, worker_queue = NULL, since = v_now
            FROM picked p WHERE d.id = p.id
            RETURNING d.id, d.held_visit, d.held_attempt, d.secret, d.lease_until, p.wake_at, p.seq
        )
        SELECT t.id, t.held_visit, t.held_attempt, t.secret, t.lease_until, t.wake_at, v_now, 0::bigint FROM taken t
        ORDER BY t.wake_at, t.seq;
    SELECT d.wake_at INTO next_at FROM comanda.due d WHERE d.wake_at >= p_from AND d.wake_at <= v_ahead
        ORDER BY d.wake_at LIMIT 1;
    RETURN QUERY SELECT NULL::uuid, 0, 0, NULL::uuid, NULL::timestamptz, next_at, v_now,
        pg_stat_get_xact_tuples_returned(v_index) - v_passed;
END $$;

-- Claims up to `p_max` orders whose work waits in a queue, for a worker from outside. Rows that others are at are passed
-- over. `lost_worker` is who held the order until its lease ended. `next_at` of a row is since when it could be claimed. The last
-- row names no order, and `p_from` and `passed` are as with `claim`.
CREATE OR REPLACE FUNCTION comanda.claim_work(p_queue text, p_worker text, p_max integer, p_lease bigint, p_from timestamptz)
RETURNS TABLE (id uuid, visit integer, attempt integer, secret uuid, lease_until timestamptz, lost_worker text,
    lost_since timestamptz, next_at timestamptz, clock timestamptz, passed bigint)
LANGUAGE plpgsql
-- The index gives them in their order, however small the table was when this was planned: once for each connection.
SET plan_cache_mode = 'force_generic_plan'
SET jit = off
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock_timestamp(); v_until timestamptz := v_now + p_lease * interval '1 microsecond';
    v_ahead timestamptz := CASE WHEN p_from = '-infinity' THEN 'infinity' ELSE v_now + interval '2 seconds' END;
    v_index oid := 'comanda.due_by_queue'::regclass; v_passed bigint := pg_stat_get_xact_tuples_returned(v_index);
BEGIN
    RETURN QUERY
        WITH late AS MATERIALIZED (
            SELECT p.id, p.pull_at, p.seq, p.worker, p.since FROM comanda.due p
            WHERE p_from > '-infinity' AND p.late_at >= p_from AND p.queue || '' = p_queue
                AND p.pull_at + interval '0' < least(p_from, v_now)
            ORDER BY p.late_at LIMIT p_max FOR UPDATE SKIP LOCKED
        ), later AS MATERIALIZED (
            SELECT p.id, p.pull_at, p.seq, p.worker, p.since FROM comanda.due p
            WHERE p.queue = p_queue AND p.pull_at >= p_from AND p.pull_at <= v_now
            ORDER BY p.pull_at, p.seq LIMIT p_max - (SELECT count(*) FROM late) FOR UPDATE SKIP LOCKED
        ), picked AS (
            SELECT * FROM late UNION ALL SELECT * FROM later
        ), taken AS (
            UPDATE comanda.due d SET held_visit = d.visit, held_attempt = d.attempt, secret = gen_random_uuid(),
                lease_until = v_until, node = NULL, worker = p_worker, worker_queue = p_queue, since = v_now
            FROM picked p WHERE d.id = p.id
            RETURNING d.id, d.held_visit, d.held_attempt, d.secret, d.lease_until, p.worker, p.since, p.pull_at, p.seq
        )
        SELECT t.id, t.held_visit, t.held_attempt, t.secret, t.lease_until, t.worker, t.since, t.pull_at, v_now, 0::bigint
        FROM taken t ORDER BY t.pull_at, t.seq;
    SELECT d.pull_at INTO next_at FROM comanda.due d
        WHERE d.queue = p_queue AND d.pull_at >= p_from AND d.pull_at <= v_ahead ORDER BY d.pull_at LIMIT 1;
    RETURN QUERY SELECT NULL::uuid, 0, 0, NULL::uuid, NULL::timestamptz, NULL::text, NULL::timestamptz, next_at, v_now,
        pg_stat_get_xact_tuples_returned(v_index) - v_passed;
END $$;

-- As nodes of format 4 call it.
CREATE OR REPLACE FUNCTION comanda.claim_work(p_queue text, p_worker text, p_max integer, p_lease bigint)
RETURNS TABLE (id uuid, visit integer, attempt integer, secret uuid, lease_until timestamptz, lost_worker text,
    lost_since timestamptz, next_at timestamptz, clock timestamptz)
LANGUAGE sql AS $$
    SELECT c.id, c.visit, c.attempt, c.secret, c.lease_until, c.lost_worker, c.lost_since, c.next_at, c.clock
    FROM comanda.claim_work(p_queue, p_worker, p_max, p_lease, '-infinity') AS c
$$;

-- Extends a claim; answers when it now ends, or nothing if it is no longer held.
CREATE OR REPLACE FUNCTION comanda.renew(p_id uuid, p_visit integer, p_attempt integer, p_secret uuid, p_lease bigint)
RETURNS TABLE (lease_until timestamptz, clock timestamptz)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock_timestamp(); v_until timestamptz := v_now + p_lease * interval '1 microsecond';
BEGIN
    RETURN QUERY
        UPDATE comanda.due d SET lease_until = v_until
        WHERE d.id = p_id AND d.secret = p_secret AND d.held_visit = p_visit AND d.held_attempt = p_attempt
        RETURNING d.lease_until, v_now;
END $$;

-- Gives claims back. Stale tokens are passed over.
CREATE OR REPLACE FUNCTION comanda.release(p_id uuid[], p_visit integer[], p_attempt integer[], p_secret uuid[])
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM comanda.due WHERE id = ANY (p_id) ORDER BY id FOR UPDATE;
    DELETE FROM comanda.due d USING unnest(p_id, p_visit, p_attempt, p_secret) AS t(id, visit, attempt, secret)
        WHERE d.id = t.id AND d.secret = t.secret AND d.held_visit = t.visit AND d.held_attempt = t.attempt
            AND d.due_at IS NULL AND d.queue IS NULL;
    UPDATE comanda.due d SET secret = NULL, held_visit = NULL, held_attempt = NULL, lease_until = NULL, node = NULL,
            late_at = clock_timestamp(),
            worker = NULL, worker_queue = NULL, since = NULL
        FROM unnest(p_id, p_visit, p_attempt, p_secret) AS t(id, visit, attempt, secret)
        WHERE d.id = t.id AND d.secret = t.secret AND d.held_visit = t.visit AND d.held_attempt = t.attempt;
END $$;

-- Tells that a node lives for so many microseconds more. Ends the leases of nodes that were not heard of in time: their
-- orders can be claimed at once. Their tokens count until someone does, as those of any lease that has ended.
CREATE OR REPLACE FUNCTION comanda.beat(p_node uuid, p_span bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := clock_timestamp(); v_gone uuid[];
BEGIN
    INSERT INTO comanda.nodes (id, alive_until) VALUES (p_node, v_now + p_span * interval '1 microsecond')
        ON CONFLICT (id) DO UPDATE SET alive_until = EXCLUDED.alive_until;
    v_gone := ARRAY(SELECT id FROM comanda.nodes WHERE alive_until < v_now AND id <> p_node FOR UPDATE SKIP LOCKED);
    IF array_length(v_gone, 1) > 0 THEN
        PERFORM 1 FROM comanda.due WHERE node = ANY (v_gone) ORDER BY id FOR UPDATE;
        UPDATE comanda.due SET lease_until = v_now, node = NULL WHERE node = ANY (v_gone) AND lease_until > v_now;
        DELETE FROM comanda.nodes WHERE id = ANY (v_gone);
    END IF;
END $$;
