-- Commits. Functions are replaced as a whole at every migration; one whose parameters change gets more of them, so that
-- the one that nodes of the version before call stays beside it until a later format drops it.
--
-- Locks are taken in one order by all: lanes by name, orders by id, due work by id, keys by name, the ledger's accounts by
-- name, lanes of queues by number, and the feed last. So batches of different nodes wait for each other, and never in a
-- circle. A lock that is not granted in time fails the batch.

-- Takes an order out of its lane, whose row the caller has locked. If it was at the head, the first of those that wait
-- takes its place and becomes due or enters its queue; answers that one, if that is now.
CREATE OR REPLACE FUNCTION comanda.leave_lane(p_lane text, p_id uuid, p_position bigint, p_now timestamptz)
RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    v_active uuid; v_next uuid; h record;
BEGIN
    SELECT active INTO v_active FROM comanda.lanes WHERE name = p_lane FOR UPDATE;
    IF v_active IS DISTINCT FROM p_id THEN
        DELETE FROM comanda.lane_waiting WHERE lane = p_lane AND position = p_position AND id = p_id;
        RETURN NULL;
    END IF;
    DELETE FROM comanda.lane_waiting w WHERE w.lane = p_lane AND w.position =
        (SELECT position FROM comanda.lane_waiting WHERE lane = p_lane ORDER BY position LIMIT 1)
        RETURNING w.id INTO v_next;
    UPDATE comanda.lanes SET active = v_next WHERE name = p_lane;
    IF v_next IS NULL THEN
        RETURN NULL;
    END IF;
    -- Whoever commits to an order that stands in a lane locks the lane first, so this head does not move.
    SELECT seq, due_at, queue, queued_at, visit, attempt INTO h FROM comanda.heads WHERE id = v_next;
    IF h.due_at IS NULL AND h.queue IS NULL THEN
        RETURN NULL;
    END IF;
    IF h.queue IS NOT NULL THEN
        INSERT INTO comanda.tally_changes (kind, a, b, c, n) VALUES ('q', h.queue, '', '', 1);
    END IF;
    INSERT INTO comanda.due (id, seq, due_at, queue, queued_at, visit, attempt, late_at)
        VALUES (v_next, h.seq, h.due_at, h.queue, h.queued_at, h.visit, h.attempt, p_now)
        ON CONFLICT (id) DO UPDATE SET due_at = EXCLUDED.due_at, queue = EXCLUDED.queue,
            queued_at = EXCLUDED.queued_at, visit = EXCLUDED.visit, attempt = EXCLUDED.attempt, late_at = EXCLUDED.late_at;
    RETURN CASE WHEN coalesce(h.due_at, h.queued_at) <= p_now THEN v_next END;
END $$;

-- Applies a batch of commits in the order given, each wholly or not at all, and answers for each.
--
-- Nearly all commits are plain: what they expect is so, they are the batch's only one for their order, they touch no ledger, and
-- their order stands in no lane, stays at the head of its lane, or is new and enters one that no other of the batch moves in. So none
-- of them depends on another of the batch. One statement looks which those are; each table then
-- gets the rows of all of them by one statement, which unfolds only the columns that it needs, and which is left out where there
-- is nothing for it. That costs a fraction of what one by one costs. All others are then applied one by one, which also finds out
-- why one cannot be.
--
-- Outcomes: 0 applied, 1 another version (`actual`), 2 stale token, 3 key taken, 4 refused by its sender's own check,
-- 5 events or attempts not numbered on, 6 too little in a place of the ledger (`short`: places' numbers, what was wanted,
-- what is there). Arrays named `k_`, `a_`, `e_`, `l_` hold the commits' keys, attempts, events and lines of the ledger; the
-- `_ord` of each is its commit's number, and `p_keys_from`, `p_keys_to`, `p_lines_from`, `p_lines_to` are ranges of them.
-- `b_account` and `b_place` are the places that lines touch, each once; lines name them by their number, from 1. `p_item_queue`
-- and what follows it say which item of a status's queue a commit puts in.
CREATE OR REPLACE FUNCTION comanda.commit(
    p_id uuid[], p_commit uuid[], p_expected bigint[], p_expect_queued boolean[], p_token_visit integer[], p_token_attempt integer[],
    p_token_secret uuid[], p_refuse smallint[],
    p_status text[], p_phase smallint[], p_type_hash bytea[], p_version bigint[], p_events_before bigint[],
    p_attempts_before bigint[], p_events bigint[], p_attempts bigint[], p_updated_at timestamptz[],
    p_due_at timestamptz[], p_due_queued_at timestamptz[], p_queue text[], p_queued_at timestamptz[], p_visit integer[], p_attempt integer[], p_cause text[],
    p_head text[], p_data text[],
    p_type text[], p_key text[], p_customer text[], p_group text[], p_accepted_status text[], p_at timestamptz[],
    p_traceparent text[],
    p_leave text[], p_enter text[], p_resume boolean[],
    p_claim smallint[], p_take_visit integer[], p_take_attempt integer[], p_take_secret uuid[], p_lease bigint[],
    p_keys_from integer[], p_keys_to integer[], p_lines_from integer[], p_lines_to integer[],
    p_item_queue text[], p_item_lane text[], p_item_parks boolean[], p_item_attempts integer[], p_lanes text[],
    k_ord integer[], k_scope text[], k_key text[], k_fingerprint bytea[], k_expires_at timestamptz[],
    a_ord integer[], a_number bigint[], a_visit integer[], a_attempt integer[], a_step text[], a_undo boolean[],
    a_started_at timestamptz[], a_ended_at timestamptz[], a_outcome smallint[], a_reason text[], a_result text[],
    e_ord integer[], e_number bigint[], e_at timestamptz[], e_kind smallint[], e_from text[], e_to text[], e_by text[],
    e_reason text[], e_changed text[],
    b_account text[], b_place text[], l_from integer[], l_to integer[], l_quantity bigint[], l_once text[], p_node uuid
) RETURNS TABLE (outcome smallint, actual bigint, claimed boolean, queued boolean, promoted uuid, "position" bigint,
    key_scope text, key_name text, key_order uuid, key_fingerprint bytea, short text, clock timestamptz)
LANGUAGE plpgsql
-- A lock that someone holds for longer than this is someone's fault: the batch fails and says so.
SET lock_timeout = '5s'
-- Plans for these statements never depend on the values, nor on how small a table was when they were made: every row is
-- found by an index.
SET plan_cache_mode = 'force_generic_plan'
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    v_count integer := coalesce(array_length(p_id, 1), 0);
    v_now timestamptz; v_name text; v_found boolean; v_held boolean;
    v_lane text; v_lane_position bigint; v_active uuid; v_is_active boolean; v_due timestamptz;
    v_queue text;
    v_seq bigint; v_taken boolean; v_key_found boolean; v_total bigint := 0; v_running bigint; v_entries bigint := 0;
    v_places integer := coalesce(array_length(b_account, 1), 0); v_quantity bigint[]; v_touched boolean[];
    v_change bigint[]; v_wanted bigint[]; v_new boolean[] := array_fill(true, ARRAY[coalesce(array_length(l_from, 1), 0)]);
    v_short text[]; v_at integer;
    c record; h comanda.heads%ROWTYPE; d comanda.due%ROWTYPE; k comanda.keys%ROWTYPE;
    r_outcome smallint[] := array_fill(0::smallint, ARRAY[v_count]);
    r_applied boolean[] := array_fill(false, ARRAY[v_count]);
    r_actual bigint[] := array_fill(0::bigint, ARRAY[v_count]);
    r_claimed boolean[] := array_fill(false, ARRAY[v_count]);
    r_queued boolean[] := array_fill(false, ARRAY[v_count]);
    r_promoted uuid[] := array_fill(NULL::uuid, ARRAY[v_count]);
    r_position bigint[] := array_fill(0::bigint, ARRAY[v_count]);
    r_key integer[] := array_fill(NULL::integer, ARRAY[v_count]);
    r_key_order uuid[] := array_fill(NULL::uuid, ARRAY[v_count]);
    r_key_fingerprint bytea[] := array_fill(NULL::bytea, ARRAY[v_count]);
    r_short text[] := array_fill(NULL::text, ARRAY[v_count]);
    v_old uuid[]; v_seqs bigint[]; v_apart integer[] := '{}'; v_items boolean; v_plain_count integer := 0; v_plain boolean[];
    -- Of each commit: whether it is plain, where that leaves it, and what stands of its order and of its order's due work.
    v_waits boolean[]; v_due_at timestamptz[]; v_work_queue text[];
    v_plain_taken boolean[]; v_there boolean[]; v_type text[]; v_status text[]; v_phase smallint[]; v_hash bytea[]; v_cause text[];
    v_due_there boolean[]; v_due_queue text[]; v_due_held boolean[];
    t_kind "char"[] := '{}'; t_a text[] := '{}'; t_b text[] := '{}'; t_c text[] := '{}'; t_n bigint[] := '{}';
BEGIN
    IF cardinality(p_lanes) > 0 THEN
        FOR v_name IN SELECT DISTINCT name FROM unnest(p_lanes) AS name ORDER BY name LOOP
            LOOP
                PERFORM 1 FROM comanda.lanes WHERE name = v_name FOR UPDATE;
                EXIT WHEN FOUND;
                -- A lane that was emptied and removed between the two statements is found missing, and made again.
                INSERT INTO comanda.lanes (name, active) VALUES (v_name, NULL) ON CONFLICT DO NOTHING;
                EXIT WHEN FOUND;
            END LOOP;
        END LOOP;
    END IF;
    -- What is not to be there yet is only read if it is.
    v_old := ARRAY(SELECT p_id[i] FROM generate_series(1, v_count) AS i WHERE p_expected[i] <> 0);
    IF array_length(v_old, 1) > 0 THEN
        PERFORM 1 FROM comanda.heads WHERE id = ANY (v_old) ORDER BY id FOR UPDATE;
        PERFORM 1 FROM comanda.due WHERE id = ANY (v_old) ORDER BY id FOR UPDATE;
    END IF;
    v_now := clock_timestamp();
    -- New orders are numbered as they stand in the batch, however they are applied.
    v_seqs := ARRAY(SELECT CASE WHEN o.expected = 0 THEN nextval('comanda.order_seq') ELSE 0 END
        FROM unnest(p_expected) AS o(expected));
    IF array_length(k_ord, 1) > 0 THEN
        -- All keys are taken at once, in their order; those of commits that fail are given back.
        INSERT INTO comanda.keys AS old (scope, key, id, fingerprint, expires_at, commit_id)
            SELECT DISTINCT ON (n.scope, n.key) n.scope, n.key, p_id[n.ord], n.fingerprint, n.expires_at, p_commit[n.ord]
            FROM unnest(k_ord, k_scope, k_key, k_fingerprint, k_expires_at) AS n(ord, scope, key, fingerprint, expires_at)
            ORDER BY n.scope, n.key, n.ord
            ON CONFLICT (scope, key) DO UPDATE SET id = EXCLUDED.id, fingerprint = EXCLUDED.fingerprint,
                expires_at = EXCLUDED.expires_at, commit_id = EXCLUDED.commit_id
            WHERE old.expires_at <= v_now;
    END IF;

    IF v_places > 0 THEN
        PERFORM comanda.lock_accounts(b_account);
        -- Balances are read once and written once, however many commits of the batch move them.
        v_quantity := ARRAY(SELECT coalesce(b.quantity, 0)
            FROM unnest(b_account, b_place) WITH ORDINALITY AS n(account, place, number)
            LEFT JOIN comanda.balances b ON b.account = n.account AND b.place = n.place ORDER BY n.number);
        v_touched := array_fill(false, ARRAY[v_places]);
        v_change := array_fill(0::bigint, ARRAY[v_places]);
        v_wanted := array_fill(0::bigint, ARRAY[v_places]);
    END IF;

    -- Orders with several commits in the batch, and commits that did not get all their keys, are seen to one by one.
    IF (SELECT count(DISTINCT u.id) FROM unnest(p_id) AS u(id)) < v_count THEN
        v_apart := ARRAY(SELECT a.ord::integer FROM (
                SELECT u.ord, count(*) OVER (PARTITION BY u.id) AS n FROM unnest(p_id) WITH ORDINALITY AS u(id, ord)) AS a
            WHERE a.n > 1);
    END IF;
    IF array_length(k_ord, 1) > 0 THEN
        v_apart := v_apart || ARRAY(SELECT n.ord FROM unnest(k_ord, k_scope, k_key) AS n(ord, scope, key)
            LEFT JOIN LATERAL (SELECT t.commit_id FROM comanda.keys t WHERE t.scope = n.scope AND t.key = n.key OFFSET 0) AS t
                ON true
            WHERE t.commit_id IS DISTINCT FROM p_commit[n.ord]);
    END IF;
    -- So are those that enter a lane which another of the batch moves in too: who comes first has its place first.
    IF cardinality(p_lanes) > (SELECT count(DISTINCT n.name) FROM unnest(p_lanes) AS n(name)) THEN
        v_apart := v_apart || ARRAY(SELECT i FROM generate_series(1, v_count) AS i
            WHERE p_enter[i] IN (SELECT n.name FROM unnest(p_lanes) AS n(name) GROUP BY n.name HAVING count(*) > 1));
    END IF;
    SELECT array_agg(s.plain), array_agg(s.plain AND s.taken), count(*) FILTER (WHERE s.plain), sum(s.events) FILTER (WHERE s.plain),
            array_agg(s.there), array_agg(s.seq), array_agg(s.order_type), array_agg(s.status), array_agg(s.phase),
            array_agg(s.type_hash), array_agg(s.cause), array_agg(s.due_there), array_agg(s.due_queue), array_agg(s.due_held),
            array_agg(s.plain AND s.waits), array_agg(s.due_at), array_agg(s.queue)
        INTO v_plain, v_plain_taken, v_plain_count, v_total,
            v_there, v_seqs, v_type, v_status, v_phase,
            v_hash, v_cause, v_due_there, v_due_queue, v_due_held,
            v_waits, v_due_at, v_work_queue
        FROM (
            SELECT CASE WHEN h.id IS NULL THEN true WHEN p_enter[i] IS NOT NULL THEN false WHEN h.lane IS NULL THEN true
                        ELSE p_leave[i] IS DISTINCT FROM h.lane AND l.active IS NOT DISTINCT FROM h.id END
                    AND p_lines_from[i] > p_lines_to[i] AND NOT p_expect_queued[i] AND p_refuse[i] = 0
                    AND i <> ALL (v_apart) AND coalesce(h.version, 0) = p_expected[i]
                    AND coalesce(h.events, 0) = p_events_before[i] AND coalesce(h.attempts, 0) = p_attempts_before[i]
                    AND h.commit_id IS DISTINCT FROM p_commit[i]
                    AND (p_token_secret[i] IS NULL OR (d.secret, d.held_visit, d.held_attempt)
                        IS NOT DISTINCT FROM (p_token_secret[i], p_token_visit[i], p_token_attempt[i])) AS plain,
                -- Who waits behind others is due only at the deadline that it has there, and in no queue yet.
                w.waits, CASE WHEN w.waits THEN p_due_queued_at[i] ELSE p_due_at[i] END AS due_at,
                CASE WHEN NOT w.waits THEN p_queue[i] END AS queue,
                p_claim[i] = 2 AND NOT w.waits AND coalesce(p_due_at[i] <= v_now, false) AS taken, p_events[i] - p_events_before[i] AS events,
                h.id IS NOT NULL AS there, coalesce(h.seq, v_seqs[i]) AS seq, h.order_type, h.status, h.phase, h.type_hash, h.cause,
                d.id IS NOT NULL AS due_there, d.queue AS due_queue, d.secret IS NOT NULL AS due_held
            FROM generate_series(1, v_count) AS i
            -- One by one, in their order (OFFSET 0 keeps it so).
            LEFT JOIN LATERAL (SELECT * FROM comanda.heads o WHERE o.id = p_id[i] OFFSET 0) AS h ON true
            LEFT JOIN LATERAL (SELECT * FROM comanda.due o WHERE o.id = h.id OFFSET 0) AS d ON true
            LEFT JOIN LATERAL (SELECT * FROM comanda.lanes o WHERE o.name = coalesce(p_enter[i], h.lane) OFFSET 0) AS l ON true
            CROSS JOIN LATERAL (SELECT h.id IS NULL AND l.active IS NOT NULL AS waits) AS w
            ORDER BY i) AS s;
    v_total := coalesce(v_total, 0);
    IF v_plain_count > 0 THEN
        IF 0 = ANY (p_expected) THEN
            INSERT INTO comanda.orders (id, seq, order_type, key, customer, group_key, status, at, traceparent, data)
                SELECT p_id[i], v_seqs[i], p_type[i], p_key[i], p_customer[i], p_group[i], p_accepted_status[i], p_at[i], p_traceparent[i], p_data[i]
                FROM generate_series(1, v_count) AS i
                WHERE v_plain[i] AND NOT v_there[i];
            INSERT INTO comanda.heads (id, seq, order_type, status, phase, type_hash, version, commit_id, events, attempts,
                    updated_at, due_at, due_queued_at, queue, queued_at, visit, attempt, cause, lane,
                    lane_position, head)
                SELECT p_id[i], v_seqs[i], p_type[i], p_status[i], p_phase[i], p_type_hash[i], p_version[i], p_commit[i], p_events[i], p_attempts[i],
                    p_updated_at[i], p_due_at[i], p_due_queued_at[i], p_queue[i], p_queued_at[i], p_visit[i], p_attempt[i], p_cause[i],
                    p_enter[i], CASE WHEN p_enter[i] IS NOT NULL THEN nextval('comanda.lane_position') END, p_head[i]
                FROM generate_series(1, v_count) AS i
                WHERE v_plain[i] AND NOT v_there[i];
            IF cardinality(p_lanes) > 0 THEN
                UPDATE comanda.lanes o SET active = p_id[i] FROM generate_series(1, v_count) AS i
                    WHERE v_plain[i] AND NOT v_there[i] AND NOT v_waits[i] AND p_enter[i] IS NOT NULL AND o.name = p_enter[i];
                INSERT INTO comanda.lane_waiting (lane, position, id)
                    SELECT h.lane, h.lane_position, h.id FROM generate_series(1, v_count) AS i
                    JOIN LATERAL (SELECT * FROM comanda.heads o WHERE o.id = p_id[i] OFFSET 0) AS h ON true
                    WHERE v_plain[i] AND v_waits[i];
            END IF;
        END IF;
        IF true = ANY (v_there) THEN
            UPDATE comanda.heads o SET status = p_status[i], phase = p_phase[i], type_hash = p_type_hash[i], version = p_version[i],
                    commit_id = p_commit[i], events = p_events[i], attempts = p_attempts[i], updated_at = p_updated_at[i],
                    due_at = p_due_at[i], due_queued_at = p_due_queued_at[i], queue = p_queue[i], queued_at = p_queued_at[i],
                    visit = p_visit[i], attempt = p_attempt[i], cause = p_cause[i], head = p_head[i]
                FROM generate_series(1, v_count) AS i
                WHERE v_plain[i] AND v_there[i] AND o.id = p_id[i];
            IF EXISTS (SELECT FROM generate_series(1, v_count) AS i WHERE v_there[i] AND p_data[i] IS NOT NULL) THEN
                UPDATE comanda.orders o SET data = p_data[i]
                    FROM generate_series(1, v_count) AS i
                    WHERE v_plain[i] AND v_there[i] AND p_data[i] IS NOT NULL AND o.id = p_id[i];
            END IF;
        END IF;
        IF true = ANY (v_due_there) THEN
            -- A claim that is kept stays, and what is held is still there when it is due no more.
            DELETE FROM comanda.due o WHERE o.id = ANY (ARRAY(
                SELECT p_id[i] FROM generate_series(1, v_count) AS i
                WHERE v_plain[i] AND v_due_there[i] AND p_due_at[i] IS NULL AND p_queue[i] IS NULL AND NOT (p_claim[i] = 0 AND v_due_held[i])));
            UPDATE comanda.due o SET due_at = p_due_at[i], queue = p_queue[i],
                    queued_at = CASE WHEN p_queue[i] IS NOT NULL THEN p_queued_at[i] END, visit = p_visit[i], attempt = p_attempt[i],
                    secret = CASE WHEN v_plain_taken[i] THEN p_take_secret[i] WHEN p_claim[i] = 0 THEN o.secret END,
                    held_visit = CASE WHEN v_plain_taken[i] THEN p_take_visit[i] WHEN p_claim[i] = 0 THEN o.held_visit END,
                    held_attempt = CASE WHEN v_plain_taken[i] THEN p_take_attempt[i] WHEN p_claim[i] = 0 THEN o.held_attempt END,
                    lease_until = CASE WHEN v_plain_taken[i] THEN v_now + p_lease[i] * interval '1 microsecond'
                        WHEN p_claim[i] = 0 THEN o.lease_until END,
                    node = CASE WHEN v_plain_taken[i] THEN p_node WHEN p_claim[i] = 0 THEN o.node END,
                    worker = CASE WHEN p_claim[i] = 0 THEN o.worker END,
                    worker_queue = CASE WHEN p_claim[i] = 0 THEN o.worker_queue END,
                    since = CASE WHEN p_claim[i] = 0 THEN o.since END,
                    late_at = CASE WHEN least(p_due_at[i], p_queued_at[i]) < v_now - interval '1 second' THEN v_now END
                FROM generate_series(1, v_count) AS i
                WHERE v_plain[i] AND v_due_there[i] AND o.id = p_id[i]
                    AND (p_due_at[i] IS NOT NULL OR p_queue[i] IS NOT NULL OR (p_claim[i] = 0 AND v_due_held[i]));
        END IF;
        IF false = ANY (v_due_there) AND (cardinality(array_remove(v_due_at, NULL)) > 0
                OR cardinality(array_remove(v_work_queue, NULL)) > 0) THEN
            INSERT INTO comanda.due (id, seq, due_at, queue, queued_at, visit, attempt, held_visit, held_attempt, secret,
                    lease_until, node, late_at)
                SELECT p_id[i], v_seqs[i], v_due_at[i], v_work_queue[i], CASE WHEN v_work_queue[i] IS NOT NULL THEN p_queued_at[i] END, p_visit[i], p_attempt[i],
                    CASE WHEN v_plain_taken[i] THEN p_take_visit[i] END, CASE WHEN v_plain_taken[i] THEN p_take_attempt[i] END,
                    CASE WHEN v_plain_taken[i] THEN p_take_secret[i] END,
                    CASE WHEN v_plain_taken[i] THEN v_now + p_lease[i] * interval '1 microsecond' END, CASE WHEN v_plain_taken[i] THEN p_node END,
                    CASE WHEN least(v_due_at[i], p_queued_at[i]) < v_now - interval '1 second' THEN v_now END
                FROM generate_series(1, v_count) AS i
                WHERE v_plain[i] AND NOT v_due_there[i] AND (v_due_at[i] IS NOT NULL OR v_work_queue[i] IS NOT NULL);
        END IF;
        -- Added up first, so that what is written down of each is made once for all that are alike.
        INSERT INTO comanda.tally_changes (kind, a, b, c, n)
            SELECT n.kind, n.a, n.b, n.c, sum(n.n) FROM (
                SELECT p_type[i], p_status[i], p_phase[i], p_type_hash[i], p_cause[i], v_work_queue[i], v_type[i], v_status[i], v_phase[i],
                    v_hash[i], v_cause[i], v_due_queue[i], count(*) AS n
                FROM generate_series(1, v_count) AS i
                WHERE v_plain[i] GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12) AS p(order_type, status, phase, type_hash, cause, queue,
                old_type, old_status, old_phase, old_hash, old_cause, old_queue, n)
            CROSS JOIN LATERAL (VALUES
                ('q'::"char", p.queue, '', '', p.n, p.queue IS DISTINCT FROM p.old_queue),
                ('q'::"char", p.old_queue, '', '', -p.n, p.queue IS DISTINCT FROM p.old_queue),
                ('s'::"char", p.order_type, p.status, p.phase::text, p.n,
                    (p.status, p.phase) IS DISTINCT FROM (p.old_status, p.old_phase)),
                ('s'::"char", p.old_type, p.old_status, p.old_phase::text, -p.n,
                    (p.status, p.phase) IS DISTINCT FROM (p.old_status, p.old_phase)),
                ('l'::"char", encode(p.type_hash, 'hex'), '', '', p.n,
                    p.phase <> 4 AND (p.old_phase IS NULL OR p.old_phase = 4 OR p.type_hash <> p.old_hash)),
                ('l'::"char", encode(p.old_hash, 'hex'), '', '', -p.n,
                    p.old_phase <> 4 AND (p.phase = 4 OR p.type_hash <> p.old_hash)),
                ('c'::"char", p.order_type, p.cause, '', p.n, p.cause IS NOT NULL),
                ('c'::"char", p.old_type, p.old_cause, '', -p.n, p.old_cause IS NOT NULL)) AS n(kind, a, b, c, n, counts)
            WHERE n.counts AND n.a IS NOT NULL
            GROUP BY n.kind, n.a, n.b, n.c HAVING sum(n.n) <> 0 OR n.kind = 'q';
        r_applied := v_plain;
        r_claimed := v_plain_taken;
        r_queued := v_waits;
    END IF;

    IF v_plain_count < v_count THEN
    FOR c IN SELECT t.* FROM unnest(
            p_id, p_commit, p_expected, p_expect_queued, p_token_visit, p_token_attempt, p_token_secret, p_refuse,
            p_status, p_phase, p_type_hash, p_version, p_events_before, p_attempts_before, p_events, p_attempts,
            p_updated_at, p_due_at, p_due_queued_at, p_queue, p_queued_at, p_visit, p_attempt, p_cause, p_head, p_data,
            p_type, p_key, p_customer, p_group, p_accepted_status, p_at, p_traceparent,
            p_leave, p_enter, p_resume, p_claim, p_take_visit, p_take_attempt, p_take_secret, p_lease,
            p_keys_from, p_keys_to, p_lines_from, p_lines_to) WITH ORDINALITY
        AS t(id, commit_id, expected, expect_queued, token_visit, token_attempt, token_secret, refuse,
            status, phase, type_hash, version, events_before, attempts_before, events, attempts,
            updated_at, due_at, due_queued_at, queue, queued_at, visit, attempt, cause, head, data,
            order_type, key, customer, group_key, accepted_status, at, traceparent,
            leave, enter, resume, claim, take_visit, take_attempt, take_secret, lease,
            keys_from, keys_to, lines_from, lines_to, ord)
        WHERE NOT r_applied[t.ord]
    LOOP
        SELECT * INTO h FROM comanda.heads WHERE id = c.id;
        v_found := FOUND;
        IF v_found THEN
            SELECT * INTO d FROM comanda.due WHERE id = c.id;
            v_held := FOUND;
        ELSE
            v_held := false;
        END IF;

        IF v_found AND h.commit_id = c.commit_id THEN
            r_claimed[c.ord] := c.claim = 2 AND v_held AND d.secret IS NOT DISTINCT FROM c.take_secret;
            r_queued[c.ord] := h.lane IS NOT NULL
                AND NOT EXISTS (SELECT 1 FROM comanda.lanes WHERE name = h.lane AND active = c.id);
            r_position[c.ord] := coalesce((SELECT max(e.position) FROM comanda.events e WHERE e.id = c.id), 0);
            CONTINUE;
        END IF;

        FOR i IN c.keys_from .. c.keys_to LOOP
            SELECT * INTO k FROM comanda.keys WHERE scope = k_scope[i] AND key = k_key[i];
            v_key_found := FOUND;
            IF v_key_found AND k.commit_id <> c.commit_id AND NOT coalesce(k.expires_at <= v_now, false) THEN
                r_outcome[c.ord] := 3;
                r_key[c.ord] := i;
                r_key_order[c.ord] := k.id;
                r_key_fingerprint[c.ord] := k.fingerprint;
                EXIT;
            ELSIF NOT v_key_found OR k.commit_id <> c.commit_id THEN
                INSERT INTO comanda.keys (scope, key, id, fingerprint, expires_at, commit_id)
                    VALUES (k_scope[i], k_key[i], c.id, k_fingerprint[i], k_expires_at[i], c.commit_id)
                    ON CONFLICT (scope, key) DO UPDATE SET id = EXCLUDED.id, fingerprint = EXCLUDED.fingerprint,
                        expires_at = EXCLUDED.expires_at, commit_id = EXCLUDED.commit_id;
            END IF;
        END LOOP;
        IF r_outcome[c.ord] = 0 THEN
            r_actual[c.ord] := CASE WHEN v_found THEN h.version ELSE 0 END;
            IF c.token_secret IS NOT NULL AND (NOT v_held OR (d.secret, d.held_visit, d.held_attempt)
                    IS DISTINCT FROM (c.token_secret, c.token_visit, c.token_attempt)) THEN
                r_outcome[c.ord] := 2;
            ELSIF r_actual[c.ord] <> c.expected OR (c.expected = 0 AND v_found) OR (c.expect_queued AND (h.lane IS NULL
                    OR EXISTS (SELECT 1 FROM comanda.lanes WHERE name = h.lane AND active = c.id))) THEN
                r_outcome[c.ord] := 1;
            ELSIF c.refuse <> 0 THEN
                r_outcome[c.ord] := 4;
            ELSIF (CASE WHEN v_found THEN h.events ELSE 0 END) <> c.events_before
                OR (CASE WHEN v_found THEN h.attempts ELSE 0 END) <> c.attempts_before THEN
                r_outcome[c.ord] := 5;
            END IF;
        END IF;
        IF r_outcome[c.ord] = 0 AND c.lines_from <= c.lines_to THEN
            FOR i IN c.lines_from .. c.lines_to LOOP
                -- A line that this order has moved before is passed over.
                v_new[i] := NOT v_found OR NOT EXISTS (SELECT 1 FROM comanda.ledger_entries e
                    WHERE e.id = c.id AND e.once = l_once[i] AND e.account = b_account[l_from[i]]);
                CONTINUE WHEN NOT v_new[i];
                v_change[l_from[i]] := v_change[l_from[i]] - l_quantity[i];
                v_wanted[l_from[i]] := v_wanted[l_from[i]] + l_quantity[i];
                v_change[l_to[i]] := v_change[l_to[i]] + l_quantity[i];
            END LOOP;
            v_short := '{}';
            FOR v_at IN SELECT DISTINCT unnest(l_from[c.lines_from:c.lines_to]) AS place ORDER BY place LOOP
                IF v_change[v_at] < 0 AND v_quantity[v_at] + v_change[v_at] < 0 AND b_place[v_at] <> 'outside' THEN
                    v_short := v_short
                        || format('[%s,%s,%s]', v_at, v_wanted[v_at], greatest(v_quantity[v_at], 0));
                END IF;
            END LOOP;
            IF array_length(v_short, 1) > 0 THEN
                r_outcome[c.ord] := 6;
                r_short[c.ord] := '[' || array_to_string(v_short, ',') || ']';
            END IF;
            FOR v_at IN SELECT DISTINCT unnest(l_from[c.lines_from:c.lines_to] || l_to[c.lines_from:c.lines_to]) LOOP
                IF r_outcome[c.ord] = 0 AND v_change[v_at] <> 0 THEN
                    v_quantity[v_at] := v_quantity[v_at] + v_change[v_at];
                    v_touched[v_at] := true;
                END IF;
                v_change[v_at] := 0;
                v_wanted[v_at] := 0;
            END LOOP;
        END IF;
        IF r_outcome[c.ord] <> 0 THEN
            FOR i IN c.keys_from .. c.keys_to LOOP
                DELETE FROM comanda.keys WHERE scope = k_scope[i] AND key = k_key[i] AND commit_id = c.commit_id;
            END LOOP;
            CONTINUE;
        END IF;

        -- From here on everything is applied.
        r_applied[c.ord] := true;
        v_total := v_total + c.events - c.events_before;
        IF v_found THEN
            v_seq := h.seq; v_lane := h.lane; v_lane_position := h.lane_position;
            IF c.data IS NOT NULL THEN
                UPDATE comanda.orders SET data = c.data WHERE id = c.id;
            END IF;
        ELSE
            v_seq := v_seqs[c.ord]; v_lane := NULL; v_lane_position := NULL;
            INSERT INTO comanda.orders (id, seq, order_type, key, customer, group_key, status, at, traceparent, data)
                VALUES (c.id, v_seq, c.order_type, c.key, c.customer, c.group_key, c.accepted_status, c.at,
                    c.traceparent, c.data);
        END IF;

        FOR i IN c.lines_from .. c.lines_to LOOP
            IF v_new[i] THEN
                INSERT INTO comanda.ledger_entries (id, once, account, source, target, quantity, counted)
                    VALUES (c.id, l_once[i], b_account[l_from[i]], b_place[l_from[i]], b_place[l_to[i]], l_quantity[i], true)
                    ON CONFLICT DO NOTHING;
                v_entries := v_entries + CASE WHEN FOUND THEN 1 ELSE 0 END;
            END IF;
        END LOOP;

        -- An order stands in one lane at a time: whoever enters another leaves the first.
        IF v_lane IS NOT NULL AND (c.leave = v_lane OR (c.enter IS NOT NULL AND c.enter <> v_lane)) THEN
            r_promoted[c.ord] := comanda.leave_lane(v_lane, c.id, v_lane_position, v_now);
            v_lane := NULL;
        END IF;
        v_is_active := true;
        IF c.enter IS NOT NULL AND v_lane IS NULL THEN
            v_lane := c.enter;
            IF v_lane_position IS NULL OR NOT c.resume THEN
                v_lane_position := nextval('comanda.lane_position');
            END IF;
            SELECT active INTO v_active FROM comanda.lanes WHERE name = v_lane;
            IF v_active IS NULL THEN
                UPDATE comanda.lanes SET active = c.id WHERE name = v_lane;
            ELSE
                v_is_active := false;
                INSERT INTO comanda.lane_waiting (lane, position, id) VALUES (v_lane, v_lane_position, c.id);
            END IF;
        ELSIF v_lane IS NOT NULL THEN
            SELECT active INTO v_active FROM comanda.lanes WHERE name = v_lane;
            v_is_active := v_active = c.id;
        END IF;
        r_queued[c.ord] := NOT v_is_active;
        v_due := CASE WHEN v_is_active THEN c.due_at ELSE c.due_queued_at END;
        v_queue := CASE WHEN v_is_active THEN c.queue END;

        IF v_found THEN
            UPDATE comanda.heads SET status = c.status, phase = c.phase, type_hash = c.type_hash, version = c.version,
                commit_id = c.commit_id, events = c.events, attempts = c.attempts, updated_at = c.updated_at,
                due_at = c.due_at, due_queued_at = c.due_queued_at, queue = c.queue, queued_at = c.queued_at,
                visit = c.visit, attempt = c.attempt, cause = c.cause, lane = v_lane, lane_position = v_lane_position, head = c.head
                WHERE id = c.id;
        ELSE
            INSERT INTO comanda.heads (id, seq, order_type, status, phase, type_hash, version, commit_id, events,
                    attempts, updated_at, due_at, due_queued_at, queue, queued_at, visit, attempt, cause, lane,
                    lane_position, head)
                VALUES (c.id, v_seq, c.order_type, c.status, c.phase, c.type_hash, c.version, c.commit_id, c.events,
                    c.attempts, c.updated_at, c.due_at, c.due_queued_at, c.queue, c.queued_at, c.visit, c.attempt, c.cause,
                    v_lane, v_lane_position, c.head);
        END IF;

        -- The claim, and the entries among what is due.
        v_taken := c.claim = 2 AND v_is_active AND coalesce(v_due <= v_now, false);
        r_claimed[c.ord] := v_taken;
        IF NOT v_held THEN
            d := NULL;
        END IF;
        IF v_taken THEN
            d.secret := c.take_secret; d.held_visit := c.take_visit; d.held_attempt := c.take_attempt;
            d.lease_until := v_now + c.lease * interval '1 microsecond'; d.node := p_node;
            d.worker := NULL; d.worker_queue := NULL; d.since := NULL;
        ELSIF c.claim <> 0 THEN
            d.secret := NULL; d.held_visit := NULL; d.held_attempt := NULL; d.lease_until := NULL;
            d.node := NULL; d.worker := NULL; d.worker_queue := NULL; d.since := NULL;
        END IF;
        -- The row as it was is still in `d`, but for who holds it.
        IF d.queue IS DISTINCT FROM v_queue THEN
            IF v_queue IS NOT NULL THEN
                t_kind := t_kind || 'q'::"char"; t_a := t_a || v_queue; t_b := t_b || ''::text; t_c := t_c || ''::text;
                t_n := t_n || 1::bigint;
            END IF;
            IF d.queue IS NOT NULL THEN
                t_kind := t_kind || 'q'::"char"; t_a := t_a || d.queue; t_b := t_b || ''::text; t_c := t_c || ''::text;
                t_n := t_n || (-1)::bigint;
            END IF;
        END IF;
        IF v_due IS NULL AND v_queue IS NULL AND d.secret IS NULL THEN
            IF v_held THEN
                DELETE FROM comanda.due WHERE id = c.id;
            END IF;
        ELSIF v_held THEN
            UPDATE comanda.due SET due_at = v_due, queue = v_queue,
                queued_at = CASE WHEN v_queue IS NOT NULL THEN c.queued_at END,
                visit = c.visit, attempt = c.attempt, secret = d.secret, held_visit = d.held_visit,
                held_attempt = d.held_attempt, lease_until = d.lease_until, node = d.node,
                worker = d.worker, worker_queue = d.worker_queue, since = d.since,
                late_at = CASE WHEN least(v_due, c.queued_at) < v_now - interval '1 second' THEN v_now END
                WHERE id = c.id;
        ELSE
            INSERT INTO comanda.due (id, seq, due_at, queue, queued_at, visit, attempt, held_visit, held_attempt, secret,
                    lease_until, node, late_at)
                VALUES (c.id, v_seq, v_due, v_queue, CASE WHEN v_queue IS NOT NULL THEN c.queued_at END,
                    c.visit, c.attempt, d.held_visit, d.held_attempt, d.secret, d.lease_until, d.node,
                    CASE WHEN least(v_due, c.queued_at) < v_now - interval '1 second' THEN v_now END);
        END IF;

        -- What is counted.
        IF NOT v_found OR (h.status, h.phase) IS DISTINCT FROM (c.status, c.phase) THEN
            t_kind := t_kind || 's'::"char"; t_a := t_a || c.order_type; t_b := t_b || c.status;
            t_c := t_c || c.phase::text; t_n := t_n || 1::bigint;
            IF v_found THEN
                t_kind := t_kind || 's'::"char"; t_a := t_a || h.order_type; t_b := t_b || h.status;
                t_c := t_c || h.phase::text; t_n := t_n || (-1)::bigint;
            END IF;
        END IF;
        IF c.phase <> 4 AND (NOT v_found OR h.phase = 4 OR h.type_hash <> c.type_hash) THEN
            t_kind := t_kind || 'l'::"char"; t_a := t_a || encode(c.type_hash, 'hex'); t_b := t_b || ''::text;
            t_c := t_c || ''::text; t_n := t_n || 1::bigint;
        END IF;
        IF v_found AND h.phase <> 4 AND (c.phase = 4 OR h.type_hash <> c.type_hash) THEN
            t_kind := t_kind || 'l'::"char"; t_a := t_a || encode(h.type_hash, 'hex'); t_b := t_b || ''::text;
            t_c := t_c || ''::text; t_n := t_n || (-1)::bigint;
        END IF;
        IF c.cause IS NOT NULL OR (v_found AND h.cause IS NOT NULL) THEN
            IF c.cause IS NOT NULL THEN
                t_kind := t_kind || 'c'::"char"; t_a := t_a || c.order_type; t_b := t_b || c.cause;
                t_c := t_c || ''::text; t_n := t_n || 1::bigint;
            END IF;
            IF v_found AND h.cause IS NOT NULL THEN
                t_kind := t_kind || 'c'::"char"; t_a := t_a || h.order_type; t_b := t_b || h.cause;
                t_c := t_c || ''::text; t_n := t_n || (-1)::bigint;
            END IF;
        END IF;
    END LOOP;
    END IF;

    IF array_length(p_lanes, 1) > 0 THEN
        DELETE FROM comanda.lanes WHERE name = ANY (p_lanes) AND active IS NULL;
    END IF;
    IF array_length(a_ord, 1) > 0 THEN
        INSERT INTO comanda.attempts (id, number, visit, attempt, step, undo, started_at, ended_at, outcome, reason, result)
            SELECT p_id[a_ord[i]], a_number[i], a_visit[i], a_attempt[i], a_step[i], a_undo[i], a_started_at[i], a_ended_at[i],
                a_outcome[i], a_reason[i], a_result[i]
            FROM generate_series(1, array_length(a_ord, 1)) AS i WHERE r_applied[a_ord[i]];
    END IF;
    IF array_length(t_kind, 1) > 0 THEN
        INSERT INTO comanda.tally_changes (kind, a, b, c, n)
            SELECT t.kind, t.a, t.b, t.c, sum(t.n) FROM unnest(t_kind, t_a, t_b, t_c, t_n) AS t(kind, a, b, c, n)
            GROUP BY t.kind, t.a, t.b, t.c HAVING sum(t.n) <> 0 OR t.kind = 'q';
    END IF;
    IF v_places > 0 THEN
        INSERT INTO comanda.balances AS b (account, place, quantity)
            SELECT n.account, n.place, n.quantity
            FROM unnest(b_account, b_place, v_quantity, v_touched) AS n(account, place, quantity, touched) WHERE n.touched
            ON CONFLICT (account, place) DO UPDATE SET quantity = EXCLUDED.quantity;
        INSERT INTO comanda.ledger_counts (kind, n) SELECT 'e', v_entries WHERE v_entries > 0;
    END IF;
    v_items := array_length(array_remove(p_item_queue, NULL), 1) > 0;
    IF v_items THEN
        PERFORM pg_advisory_xact_lock(x'636f6d71'::integer, n.number) FROM (
            SELECT DISTINCT comanda.item_lane(q.queue, q.lane) AS number
            FROM unnest(p_item_queue, p_item_lane, r_applied) AS q(queue, lane, applied)
            WHERE q.applied AND q.queue IS NOT NULL ORDER BY 1) AS n;
    END IF;
    IF v_total > 0 THEN
        -- The feed's lock is taken last and held until the commit is visible, so that positions become visible in
        -- their order. The transaction ends with this call: nobody's network stands between lock and commit.
        PERFORM pg_advisory_xact_lock(x'636f6d616e6461'::bigint);
        INSERT INTO comanda.events (position, id, number, at, kind, from_status, to_status, by, reason, changed)
            SELECT nextval('comanda.feed_position'), p_id[e_ord[i]], e_number[i], e_at[i], e_kind[i], e_from[i], e_to[i], e_by[i],
                e_reason[i], e_changed[i]
            FROM (SELECT i FROM generate_series(1, array_length(e_ord, 1)) AS i WHERE r_applied[e_ord[i]] ORDER BY i) AS e(i);
        v_running := currval('comanda.feed_position') - v_total;
        -- Whoever enters a status has an event, so items are put in here, in commit order.
        FOR i IN 1 .. CASE WHEN v_items THEN v_count ELSE 0 END LOOP
            IF r_applied[i] AND p_item_queue[i] IS NOT NULL THEN
                INSERT INTO comanda.items (position, queue, id, status, version, at, lane, parks, attempts_max, attempt,
                        due_at, holds, head)
                    VALUES (nextval('comanda.item_position'), p_item_queue[i], p_id[i], p_status[i], p_version[i], v_now,
                        p_item_lane[i], p_item_parks[i], p_item_attempts[i], 0, v_now, true, NOT EXISTS (
                            SELECT 1 FROM comanda.items t
                            WHERE t.queue = p_item_queue[i] AND t.lane = p_item_lane[i] AND t.holds));
                INSERT INTO comanda.tally_changes (kind, a, b, c, n) VALUES ('q', p_item_queue[i], '', '', 1);
            END IF;
        END LOOP;
        -- An order that is erased keeps nothing outside its head and its data; of what was changed, only which members.
        IF 13 = ANY (e_kind) THEN
            FOR i IN 1 .. v_count LOOP
                CONTINUE WHEN NOT r_applied[i] OR NOT EXISTS (
                    SELECT 1 FROM unnest(e_ord, e_kind) AS e(ord, kind) WHERE e.ord = i AND e.kind = 13);
                UPDATE comanda.orders SET customer = p_customer[i], group_key = p_group[i], traceparent = p_traceparent[i]
                    WHERE id = p_id[i];
                UPDATE comanda.events SET reason = NULL, changed = (
                        SELECT json_agg(CASE json_typeof(c.value) WHEN 'string' THEN c.value ELSE c.value -> 'pointer' END)::text
                        FROM json_array_elements(changed::json) AS c(value))
                    WHERE id = p_id[i] AND (reason IS NOT NULL OR changed IS NOT NULL);
                UPDATE comanda.attempts SET reason = NULL, result = NULL WHERE id = p_id[i] AND number <= p_attempts[i];
                UPDATE comanda.items SET reason = '' WHERE id = p_id[i] AND reason IS NOT NULL;
            END LOOP;
        END IF;
    ELSE
        v_running := coalesce((SELECT max(e.position) FROM comanda.events e), 0);
    END IF;
    r_position := ARRAY(SELECT CASE WHEN r_applied[i] THEN v_running
                + sum(CASE WHEN r_applied[i] THEN (p_events[i] - p_events_before[i])::integer END) OVER (ORDER BY i)
            ELSE r_position[i] END FROM generate_series(1, v_count) AS i ORDER BY i);
    RETURN QUERY SELECT r_outcome[i], r_actual[i], r_claimed[i], r_queued[i], r_promoted[i], r_position[i],
        k_scope[r_key[i]], k_key[r_key[i]], r_key_order[i], r_key_fingerprint[i], r_short[i], v_now
        FROM generate_series(1, v_count) AS i;
END $$;
