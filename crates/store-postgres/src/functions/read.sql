-- Orders and the feed, as they are read.

-- Orders as they stand, each with its claim, its place, and what its results are made from.
CREATE OR REPLACE FUNCTION comanda.read(p_ids uuid[])
RETURNS TABLE (id uuid, seq bigint, order_type text, key text, customer text, group_key text, status text,
    at timestamptz, traceparent text, data text, head text, behind integer, held_visit integer, held_attempt integer,
    secret uuid, lease_until timestamptz, worker text, since timestamptz, steps text[], undos boolean[], results text[], clock timestamptz)
LANGUAGE plpgsql STABLE
-- Planned once for each connection: planning takes ten times as long as reading an order does. Each row is found by an index,
-- whatever the tables were like when this was planned.
SET plan_cache_mode = 'force_generic_plan'
SET jit = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT o.id, o.seq, o.order_type, o.key, o.customer, o.group_key, o.status, o.at, o.traceparent, o.data, h.head,
            CASE WHEN h.lane IS NULL THEN -1
                WHEN EXISTS (SELECT 1 FROM comanda.lanes l WHERE l.name = h.lane AND l.active = h.id) THEN 0
                ELSE 1 + (SELECT count(*)::integer FROM (SELECT 1 FROM comanda.lane_waiting w
                    WHERE w.lane = h.lane AND w.position < h.lane_position LIMIT 1000) AS before) END,
            d.held_visit, d.held_attempt, d.secret, d.lease_until, d.worker, d.since, r.steps, r.undos, r.results, clock_timestamp()
        FROM unnest(p_ids) WITH ORDINALITY AS wanted(id, place)
        JOIN comanda.orders o ON o.id = wanted.id
        JOIN comanda.heads h ON h.id = wanted.id
        -- One by one (OFFSET 0 keeps it so): the table looks empty to the planner, and read as a whole it is as large as
        -- what someone's open transaction keeps of it.
        LEFT JOIN LATERAL (SELECT * FROM comanda.due c WHERE c.id = wanted.id AND c.secret IS NOT NULL OFFSET 0) AS d
            ON true
        LEFT JOIN LATERAL (
            SELECT array_agg(a.step ORDER BY a.number) AS steps, array_agg(a.undo ORDER BY a.number) AS undos,
                array_agg(a.result ORDER BY a.number) AS results
            FROM comanda.attempts a
            WHERE a.id = wanted.id AND a.outcome = 0 AND (a.undo OR a.result IS NOT NULL)
        ) AS r ON h.attempts > 0
        ORDER BY wanted.place;
END $$;

-- Where the feed begins and ends. A store that orders were moved into ends no earlier than the one that they came from.
CREATE OR REPLACE FUNCTION comanda.feed_bounds()
RETURNS TABLE (epoch bigint, timeline text, retained bigint, newest bigint) LANGUAGE sql STABLE AS $$
    SELECT (SELECT value FROM comanda.meta WHERE name = 'epoch'),
        -- The timeline moves when another server takes over or an older state is restored.
        CASE WHEN pg_is_in_recovery() THEN NULL ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END,
        r.value, greatest(r.value, (SELECT value FROM comanda.meta WHERE name = 'moved_to'),
            (SELECT max(e.position) FROM comanda.events e), (SELECT max(n.position) FROM comanda.notices n))
    FROM comanda.meta r WHERE r.name = 'retained'
$$;

-- The feed as nodes of format 3 read it, without what belongs to no order. See `feed_page`.
-- A page of the feed: after a position (0), from the oldest event from which on none was removed (1), or from the
-- newest (2). Every row tells where the feed begins and ends; a page without events is one such row.
CREATE OR REPLACE FUNCTION comanda.feed(p_start smallint, p_after bigint, p_max integer)
RETURNS TABLE (epoch bigint, timeline text, retained bigint, newest bigint, "position" bigint, id uuid, number bigint,
    at timestamptz, kind smallint, from_status text, to_status text, by text, reason text, changed text,
    order_type text, customer text)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        WITH place AS MATERIALIZED (
            SELECT b.*, CASE p_start WHEN 0 THEN p_after WHEN 1 THEN b.retained ELSE b.newest END AS after
            FROM comanda.feed_bounds() AS b
        )
        SELECT p.epoch, p.timeline, p.retained, p.newest, e.position, e.id, e.number, e.at, e.kind, e.from_status,
            e.to_status, e.by, e.reason, e.changed, e.order_type, e.customer
        FROM place p LEFT JOIN LATERAL (
            SELECT v.*, o.order_type, o.customer FROM (
                SELECT * FROM comanda.events n WHERE n.position > p.after ORDER BY n.position LIMIT p_max
            ) AS v JOIN comanda.orders o ON o.id = v.id
        ) AS e ON true
        ORDER BY e.position;
END $$;

-- The same with what belongs to no order (`notice`), of which and of events it answers up to `p_max` each.
CREATE OR REPLACE FUNCTION comanda.feed_page(p_start smallint, p_after bigint, p_max integer)
RETURNS TABLE (epoch bigint, timeline text, retained bigint, newest bigint, "position" bigint, id uuid, number bigint,
    at timestamptz, kind smallint, from_status text, to_status text, by text, reason text, changed text,
    order_type text, customer text, group_key text, notice text)
LANGUAGE plpgsql STABLE
-- A page is small however many orders there are: each is found by an index, whatever the tables were like when this was planned.
-- That is once for each connection: planning takes as long as reading a page does. Such a plan takes a tenth of the feed for a page's
-- size, and would be compiled for that each time.
SET plan_cache_mode = 'force_generic_plan'
SET jit = off
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        WITH place AS MATERIALIZED (
            SELECT b.*, CASE p_start WHEN 0 THEN p_after WHEN 1 THEN b.retained ELSE b.newest END AS after
            FROM comanda.feed_bounds() AS b
        )
        SELECT p.epoch, p.timeline, p.retained, p.newest, e.position, e.id, e.number, e.at, e.kind, e.from_status,
            e.to_status, e.by, e.reason, e.changed, e.order_type, e.customer, e.group_key, e.notice
        FROM place p LEFT JOIN LATERAL (
            SELECT v.*, o.order_type, o.customer, o.group_key, NULL::text AS notice FROM (
                SELECT n.position, n.id, n.number, n.at, n.kind, n.from_status, n.to_status, n.by, n.reason, n.changed
                FROM comanda.events n WHERE n.position > p.after ORDER BY n.position LIMIT p_max
            ) AS v JOIN comanda.orders o ON o.id = v.id
            UNION ALL
            SELECT t.position, NULL, NULL, t.at, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, t.notice FROM (
                SELECT n.position, n.at, n.notice FROM comanda.notices n
                WHERE n.position > p.after ORDER BY n.position LIMIT p_max
            ) AS t
        ) AS e ON true
        ORDER BY e.position;
END $$;
