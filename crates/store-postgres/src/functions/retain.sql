-- What goes with time: old orders, expired keys, changes of counts.

-- Removes up to `p_max` orders that have been final since before a moment, with everything that belongs to them, and as
-- many expired keys. Orders that someone is committing to are passed over until the next time.
CREATE OR REPLACE FUNCTION comanda.retain(p_before timestamptz, p_max integer, p_keys_max integer)
RETURNS TABLE (orders integer, keys integer)
LANGUAGE plpgsql
SET lock_timeout = '5s'
AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock_timestamp(); v_ids uuid[]; v_keys integer; v_newest bigint;
BEGIN
    PERFORM set_config('comanda.counts_what_it_removes', 'yes', true);
    -- What a queue still hands out, or holds as a dead letter, must be there.
    v_ids := ARRAY(SELECT h.id FROM comanda.heads h WHERE h.phase = 4 AND h.updated_at < p_before AND h.lane IS NULL
        AND NOT EXISTS (SELECT 1 FROM comanda.items i WHERE i.id = h.id)
        ORDER BY h.updated_at LIMIT p_max FOR UPDATE SKIP LOCKED);
    IF array_length(v_ids, 1) > 0 THEN
        INSERT INTO comanda.tally_changes (kind, a, b, c, n)
            SELECT 's', order_type, status, phase::text, -count(*) FROM comanda.heads WHERE id = ANY (v_ids)
            GROUP BY order_type, status, phase;
        DELETE FROM comanda.due WHERE id = ANY (v_ids);
        DELETE FROM comanda.keys WHERE id = ANY (v_ids);
        DELETE FROM comanda.attempts WHERE id = ANY (v_ids);
        -- What they moved stays, summed up.
        PERFORM comanda.lock_accounts(ARRAY(SELECT DISTINCT account FROM comanda.ledger_entries WHERE id = ANY (v_ids)));
        WITH gone AS (
            DELETE FROM comanda.ledger_entries WHERE id = ANY (v_ids) RETURNING account, source, target, quantity, counted
        ), uncounted AS (
            INSERT INTO comanda.ledger_counts (kind, n) SELECT 'e', -count(*) FROM gone WHERE counted HAVING count(*) > 0
        ) INSERT INTO comanda.ledger_flows AS f (account, source, target, quantity)
            SELECT account, source, target, sum(quantity) FROM gone GROUP BY 1, 2, 3
            ON CONFLICT (account, source, target) DO UPDATE SET quantity = f.quantity + EXCLUDED.quantity;
        WITH gone AS (DELETE FROM comanda.events WHERE id = ANY (v_ids) RETURNING position)
            SELECT max(position) INTO v_newest FROM gone;
        UPDATE comanda.meta SET value = v_newest WHERE name = 'retained' AND value < v_newest;
        DELETE FROM comanda.heads WHERE id = ANY (v_ids);
        DELETE FROM comanda.orders WHERE id = ANY (v_ids);
    END IF;
    WITH gone AS (
        DELETE FROM comanda.notices WHERE position IN
            (SELECT n.position FROM comanda.notices n WHERE n.at < p_before ORDER BY n.position LIMIT p_keys_max)
        RETURNING position
    ) SELECT max(position) INTO v_newest FROM gone;
    UPDATE comanda.meta SET value = v_newest WHERE name = 'retained' AND value < v_newest;
    -- The ids of old postings may be used again.
    WITH gone AS (
        DELETE FROM comanda.postings WHERE once IN
            (SELECT once FROM comanda.postings WHERE at < p_before ORDER BY at LIMIT p_keys_max FOR UPDATE SKIP LOCKED)
        RETURNING counted
    ) INSERT INTO comanda.ledger_counts (kind, n) SELECT 'p', -count(*) FROM gone WHERE counted HAVING count(*) > 0;
    WITH expired AS (
        SELECT scope, key FROM comanda.keys WHERE expires_at <= v_now ORDER BY expires_at LIMIT p_keys_max
        FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM comanda.keys k USING expired e WHERE k.scope = e.scope AND k.key = e.key RETURNING 1
    ) SELECT count(*) INTO v_keys FROM gone;
    RETURN QUERY SELECT coalesce(array_length(v_ids, 1), 0), v_keys;
END $$;

-- Adds changes to the counts up to now into the counts, if nobody else is at it. Answers how many changes there were.
CREATE OR REPLACE FUNCTION comanda.fold() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_folded bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(x'636f6d616e6462'::bigint) THEN
        RETURN 0;
    END IF;
    WITH gone AS (
        DELETE FROM comanda.tally_changes WHERE id IN (SELECT id FROM comanda.tally_changes ORDER BY id LIMIT 10000)
        RETURNING kind, a, b, c, n
    ), sums AS (
        SELECT kind, a, b, c, sum(n)::bigint AS n, count(*) AS changes FROM gone GROUP BY kind, a, b, c
    ), folded AS (
        INSERT INTO comanda.tally AS t (kind, a, b, c, n) SELECT kind, a, b, c, n FROM sums
        ON CONFLICT (kind, a, b, c) DO UPDATE SET n = t.n + EXCLUDED.n
    ) SELECT coalesce(sum(changes), 0) INTO v_folded FROM sums;
    -- Only `verify` reads these, so they need not be few.
    IF (SELECT count(*) FROM (SELECT FROM comanda.ledger_counts LIMIT 1000) AS c) = 1000 THEN
        WITH gone AS (
            DELETE FROM comanda.ledger_counts WHERE id IN (SELECT id FROM comanda.ledger_counts ORDER BY id LIMIT 10000)
            RETURNING kind, n
        ) INSERT INTO comanda.ledger_counts (kind, n) SELECT kind, sum(n) FROM gone GROUP BY kind;
    END IF;
    RETURN v_folded;
END $$;
