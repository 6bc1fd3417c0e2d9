-- Items of statuses' queues. Of each lane one item at a time is its head: the first of those that stand in it. Who claims
-- looks only at heads, so that a long lane costs one entry.
--
-- Whoever changes who is in a lane holds the lane's lock; it is an advisory one, so that lanes need no rows of their own.

-- The number that a queue's lane is locked by. Two lanes with one number only wait for each other.
CREATE OR REPLACE FUNCTION comanda.item_lane(p_queue text, p_lane text) RETURNS integer
LANGUAGE sql IMMUTABLE AS $$ SELECT hashtext(p_queue || E'\x1f' || p_lane) $$;

-- Sees to it that the first that stands in a lane is its head, and no other; the caller has locked the lane. One that is
-- leased stays the head until it has been answered for.
CREATE OR REPLACE FUNCTION comanda.promote_item(p_queue text, p_lane text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_head bigint; v_secret uuid; v_first bigint; v_died timestamptz;
BEGIN
    -- Locked, for a claim may be about to lease it.
    SELECT position, secret INTO v_head, v_secret FROM comanda.items
        WHERE queue = p_queue AND lane = p_lane AND holds AND head FOR UPDATE;
    IF v_secret IS NOT NULL THEN
        RETURN;
    END IF;
    SELECT position, died_at INTO v_first, v_died FROM comanda.items
        WHERE queue = p_queue AND lane = p_lane AND holds ORDER BY position LIMIT 1;
    IF v_head IS NOT NULL AND v_head IS DISTINCT FROM v_first THEN
        UPDATE comanda.items SET head = false WHERE position = v_head;
    END IF;
    -- Whoever was put in long before stands in the index where it came to the head: claims need not look back for it.
    UPDATE comanda.items SET head = v_died IS NULL,
            due_at = CASE WHEN v_died IS NULL THEN greatest(due_at, clock_timestamp()) ELSE due_at END
        WHERE position = v_first AND head <> (v_died IS NULL);
END $$;

-- Makes an item a dead letter of its queue; the caller has locked its lane.
CREATE OR REPLACE FUNCTION comanda.bury_item(p_position bigint, p_reason text, p_now timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    i record;
BEGIN
    UPDATE comanda.items SET secret = NULL, worker = NULL, died_at = p_now, reason = p_reason, head = false, holds = parks
        WHERE position = p_position RETURNING queue, lane INTO i;
    INSERT INTO comanda.tally_changes (kind, a, b, c, n) VALUES ('q', i.queue, '', '', -1), ('d', i.queue, '', '', 1);
    PERFORM comanda.promote_item(i.queue, i.lane);
END $$;

-- Claims up to `p_max` items that are due at the head of their lanes. One that was lost at its last attempt becomes a dead
-- letter instead. `next_at` of an item is since when it was due. The last row names no item: when the next is due, and the
-- clock; `p_from` and `passed` are as with `claim`.
CREATE OR REPLACE FUNCTION comanda.claim_items(p_queue text, p_worker text, p_max integer, p_lease bigint, p_from timestamptz)
RETURNS TABLE ("position" bigint, id uuid, status text, version bigint, attempt integer, secret uuid,
    lease_until timestamptz, next_at timestamptz, clock timestamptz, passed bigint)
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
    v_heads oid := 'comanda.items_heads'::regclass; v_leased oid := 'comanda.items_leased'::regclass;
    v_passed bigint := pg_stat_get_xact_tuples_returned(v_heads) + pg_stat_get_xact_tuples_returned(v_leased); i record;
BEGIN
    -- Of those that are leased only, however many wait. Whose lane someone else is at stays for the next time.
    FOR i IN SELECT p.position, p.lane, p.worker FROM comanda.items p
        WHERE p.queue = p_queue AND p.secret IS NOT NULL AND p.due_at >= p_from AND p.due_at <= v_now AND p.head
            AND p.attempt >= p.attempts_max AND p.worker IS NOT NULL
        ORDER BY p.due_at LIMIT 100
    LOOP
        CONTINUE WHEN NOT pg_try_advisory_xact_lock(x'636f6d71'::integer, comanda.item_lane(p_queue, i.lane));
        PERFORM 1 FROM comanda.items p WHERE p.position = i.position AND p.head AND p.due_at <= v_now
            AND p.attempt >= p.attempts_max AND p.worker IS NOT NULL FOR UPDATE SKIP LOCKED;
        IF FOUND THEN
            PERFORM comanda.bury_item(i.position,
                'the worker `' || i.worker || '` gave no answer before its lease ended', v_now);
        END IF;
    END LOOP;
    RETURN QUERY
        WITH picked AS MATERIALIZED (
            SELECT p.position, p.due_at FROM comanda.items p
            WHERE p.queue = p_queue AND p.head AND p.due_at >= p_from AND p.due_at <= v_now
                AND p.attempt < p.attempts_max
            ORDER BY p.due_at, p.position LIMIT p_max FOR UPDATE SKIP LOCKED
        ), taken AS (
            UPDATE comanda.items t SET attempt = t.attempt + 1, due_at = v_until, secret = gen_random_uuid(),
                worker = p_worker
            FROM picked p WHERE t.position = p.position
            RETURNING t.position, t.id, t.status, t.version, t.attempt, t.secret, p.due_at
        )
        SELECT t.position, t.id, t.status, t.version, t.attempt, t.secret, v_until, t.due_at, v_now, 0::bigint
        FROM taken t ORDER BY t.due_at, t.position;
    SELECT p.due_at INTO next_at FROM comanda.items p
        WHERE p.queue = p_queue AND p.head AND p.due_at >= p_from AND p.due_at <= v_ahead ORDER BY p.due_at LIMIT 1;
    RETURN QUERY SELECT NULL::bigint, NULL::uuid, NULL::text, 0::bigint, 0, NULL::uuid, NULL::timestamptz, next_at, v_now,
        pg_stat_get_xact_tuples_returned(v_heads) + pg_stat_get_xact_tuples_returned(v_leased) - v_passed;
END $$;

-- As nodes of format 4 call it.
CREATE OR REPLACE FUNCTION comanda.claim_items(p_queue text, p_worker text, p_max integer, p_lease bigint)
RETURNS TABLE ("position" bigint, id uuid, status text, version bigint, attempt integer, secret uuid,
    lease_until timestamptz, next_at timestamptz, clock timestamptz)
LANGUAGE sql AS $$
    SELECT c.position, c.id, c.status, c.version, c.attempt, c.secret, c.lease_until, c.next_at, c.clock
    FROM comanda.claim_items(p_queue, p_worker, p_max, p_lease, '-infinity') AS c
$$;

-- Ends the claim of an item: it is done (0), is to be handed out again (1), or is refused (2). Answers its queue, or
-- nothing if the token does not hold it.
CREATE OR REPLACE FUNCTION comanda.settle_item(p_position bigint, p_secret uuid, p_outcome smallint, p_reason text,
    p_delay bigint) RETURNS text
LANGUAGE plpgsql
SET lock_timeout = '5s'
AS $$
DECLARE
    v_now timestamptz; i record;
BEGIN
    -- Neither its queue nor its lane ever changes.
    SELECT queue, lane INTO i FROM comanda.items WHERE position = p_position AND secret = p_secret;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    PERFORM pg_advisory_xact_lock(x'636f6d71'::integer, comanda.item_lane(i.queue, i.lane));
    SELECT queue, lane, attempt, attempts_max INTO i FROM comanda.items
        WHERE position = p_position AND secret = p_secret FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    v_now := clock_timestamp();
    IF p_outcome = 0 THEN
        DELETE FROM comanda.items WHERE position = p_position;
        INSERT INTO comanda.tally_changes (kind, a, b, c, n) VALUES ('q', i.queue, '', '', -1);
        PERFORM comanda.promote_item(i.queue, i.lane);
    ELSIF p_outcome = 1 AND i.attempt < i.attempts_max THEN
        UPDATE comanda.items SET secret = NULL, worker = NULL, due_at = v_now + p_delay * interval '1 microsecond'
            WHERE position = p_position;
        -- One that has come back in front of it meanwhile is next now.
        PERFORM comanda.promote_item(i.queue, i.lane);
    ELSE
        PERFORM comanda.bury_item(p_position, p_reason, v_now);
    END IF;
    RETURN i.queue;
END $$;

-- Extends the claim of an item; answers when it now ends, or nothing if the token does not hold it.
CREATE OR REPLACE FUNCTION comanda.renew_item(p_position bigint, p_secret uuid, p_lease bigint)
RETURNS TABLE (lease_until timestamptz, clock timestamptz)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    RETURN QUERY UPDATE comanda.items t SET due_at = v_now + p_lease * interval '1 microsecond'
        WHERE t.position = p_position AND t.secret = p_secret RETURNING t.due_at, v_now;
END $$;

-- Moves dead letters of a queue: back to be handed out, with all their attempts, or away. Answers how many there were.
CREATE OR REPLACE FUNCTION comanda.move_dead_items(p_queue text, p_positions bigint[], p_redrive boolean) RETURNS bigint
LANGUAGE plpgsql
SET lock_timeout = '5s'
AS $$
DECLARE
    v_now timestamptz; v_lanes text[]; v_lane text; v_moved bigint;
BEGIN
    v_lanes := ARRAY(SELECT DISTINCT lane FROM comanda.items
        WHERE position = ANY (p_positions) AND queue = p_queue AND died_at IS NOT NULL);
    PERFORM pg_advisory_xact_lock(x'636f6d71'::integer, l.number)
        FROM (SELECT DISTINCT comanda.item_lane(p_queue, lane) AS number FROM unnest(v_lanes) AS lane ORDER BY 1) AS l;
    v_now := clock_timestamp();
    IF p_redrive THEN
        UPDATE comanda.items SET died_at = NULL, reason = NULL, attempt = 0, due_at = v_now, head = false, holds = true
            WHERE position = ANY (p_positions) AND queue = p_queue AND died_at IS NOT NULL;
    ELSE
        DELETE FROM comanda.items WHERE position = ANY (p_positions) AND queue = p_queue AND died_at IS NOT NULL;
    END IF;
    GET DIAGNOSTICS v_moved = ROW_COUNT;
    IF v_moved > 0 THEN
        INSERT INTO comanda.tally_changes (kind, a, b, c, n) VALUES ('d', p_queue, '', '', -v_moved);
        IF p_redrive THEN
            INSERT INTO comanda.tally_changes (kind, a, b, c, n) VALUES ('q', p_queue, '', '', v_moved);
        END IF;
    END IF;
    FOREACH v_lane IN ARRAY v_lanes LOOP
        PERFORM comanda.promote_item(p_queue, v_lane);
    END LOOP;
    RETURN v_moved;
END $$;
