-- Notices: events of the feed that belong to no order.

-- Puts a notice at the feed's end, unless it is in the feed; answers where it stands. The transaction ends with the call that this is part of, so the
-- feed's lock is the last one that is taken, and nobody's network stands between it and the commit.
CREATE OR REPLACE FUNCTION comanda.announce(n_id text, n_at timestamptz, n_notice text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_position bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(x'636f6d616e6461'::bigint);
    SELECT position INTO v_position FROM comanda.notices WHERE id = n_id;
    IF NOT FOUND THEN
        v_position := nextval('comanda.feed_position');
        INSERT INTO comanda.notices (position, id, at, notice) VALUES (v_position, n_id, n_at, n_notice);
    END IF;
    RETURN v_position;
END $$;

-- `put_subscription` and a notice, in one act; answers where the notice stands, or null for one subscription too many.
CREATE OR REPLACE FUNCTION comanda.put_announced(p_id text, p_spec text, p_max integer,
    n_id text, n_at timestamptz, n_notice text) RETURNS bigint
LANGUAGE plpgsql
SET lock_timeout = '5s'
AS $$
BEGIN
    IF NOT comanda.put_subscription(p_id, p_spec, p_max) THEN
        RETURN NULL;
    END IF;
    RETURN comanda.announce(n_id, n_at, n_notice);
END $$;

-- `advance` and a notice, in one act; answers where the notice stands. What does not count is not told, and answered with null.
CREATE OR REPLACE FUNCTION comanda.advance_announced(p_id text, p_node uuid, p_hold bigint, p_epoch bigint,
    p_position bigint, p_settled uuid[], x_order uuid[], x_exception text[], d_delivery text[], p_kept bigint,
    n_id text, n_at timestamptz, n_notice text) RETURNS bigint
LANGUAGE plpgsql
SET lock_timeout = '5s'
AS $$
BEGIN
    IF NOT comanda.advance(p_id, p_node, p_hold, p_epoch, p_position, p_settled, x_order, x_exception, d_delivery, p_kept) THEN
        RETURN NULL;
    END IF;
    RETURN comanda.announce(n_id, n_at, n_notice);
END $$;
