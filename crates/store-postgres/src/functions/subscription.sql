-- Subscriptions: who wants which events, who delivers them, and how far each has come.

-- Keeps a subscription; answers false for one more than `p_max`. Whoever delivers it has to look at it anew.
CREATE OR REPLACE FUNCTION comanda.put_subscription(p_id text, p_spec text, p_max integer) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE comanda.subscriptions SET spec = p_spec, hold = hold + 1 WHERE id = p_id;
    IF FOUND THEN
        RETURN true;
    END IF;
    -- They are few, so counting them is cheap; one at a time, so that the bound holds.
    PERFORM pg_advisory_xact_lock(x'636f6d616e6464'::bigint);
    IF (SELECT count(*) FROM comanda.subscriptions) >= p_max THEN
        RETURN false;
    END IF;
    INSERT INTO comanda.subscriptions (id, spec) VALUES (p_id, p_spec)
        ON CONFLICT (id) DO UPDATE SET spec = EXCLUDED.spec, hold = comanda.subscriptions.hold + 1;
    RETURN true;
END $$;

-- Removes a subscription with its progress and its log; answers whether there was one.
CREATE OR REPLACE FUNCTION comanda.remove_subscription(p_id text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    v_found boolean;
BEGIN
    DELETE FROM comanda.subscriptions WHERE id = p_id;
    v_found := FOUND;
    DELETE FROM comanda.subscription_exceptions WHERE subscription = p_id;
    DELETE FROM comanda.deliveries WHERE subscription = p_id;
    RETURN v_found;
END $$;

-- Takes the subscriptions that no node delivers that is known to live, and answers all that this node delivers. Those that
-- someone changes at this moment are left for the next time.
CREATE OR REPLACE FUNCTION comanda.hold_subscriptions(p_node uuid) RETURNS TABLE (id text, hold bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    -- A node that is not known to live holds nothing, this one included.
    IF EXISTS (SELECT 1 FROM comanda.nodes n WHERE n.id = p_node AND n.alive_until > v_now) THEN
        UPDATE comanda.subscriptions s SET node = p_node, hold = s.hold + 1
        WHERE s.id IN (
            SELECT f.id FROM comanda.subscriptions f
            WHERE f.node IS DISTINCT FROM p_node
                AND NOT EXISTS (SELECT 1 FROM comanda.nodes n WHERE n.id = f.node AND n.alive_until > v_now)
            FOR UPDATE SKIP LOCKED);
        RETURN QUERY SELECT s.id, s.hold FROM comanda.subscriptions s WHERE s.node = p_node ORDER BY s.id;
    END IF;
END $$;

-- Moves a subscription on, in one act; answers whether it did. Work that was done under a hold counts only while that hold
-- stands, and while its node is known to live; a change without one ends the hold.
CREATE OR REPLACE FUNCTION comanda.advance(p_id text, p_node uuid, p_hold bigint, p_epoch bigint, p_position bigint,
    p_settled uuid[], x_order uuid[], x_exception text[], d_delivery text[], p_kept bigint) RETURNS boolean
LANGUAGE plpgsql
SET lock_timeout = '5s'
AS $$
DECLARE
    v_number bigint; v_hold bigint; v_node uuid; v_count bigint := coalesce(array_length(d_delivery, 1), 0);
BEGIN
    SELECT delivery, hold, node INTO v_number, v_hold, v_node FROM comanda.subscriptions WHERE id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF p_hold IS NOT NULL AND (v_hold <> p_hold OR v_node IS DISTINCT FROM p_node OR NOT EXISTS
            (SELECT 1 FROM comanda.nodes n WHERE n.id = p_node AND n.alive_until > clock_timestamp())) THEN
        RETURN false;
    END IF;
    UPDATE comanda.subscriptions SET epoch = coalesce(p_epoch, epoch), position = coalesce(p_position, position),
            delivery = delivery + v_count, hold = CASE WHEN p_hold IS NULL THEN hold + 1 ELSE hold END
        WHERE id = p_id;
    DELETE FROM comanda.subscription_exceptions WHERE subscription = p_id AND order_id = ANY (p_settled);
    INSERT INTO comanda.subscription_exceptions (subscription, order_id, exception)
        SELECT p_id, x.id, x.exception FROM unnest(x_order, x_exception) AS x(id, exception)
        ON CONFLICT (subscription, order_id) DO UPDATE SET exception = EXCLUDED.exception;
    IF v_count > 0 THEN
        INSERT INTO comanda.deliveries (subscription, number, delivery)
            SELECT p_id, v_number + d.place, d.delivery FROM unnest(d_delivery) WITH ORDINALITY AS d(delivery, place);
        DELETE FROM comanda.deliveries WHERE subscription = p_id AND number <= v_number + v_count - p_kept;
    END IF;
    RETURN true;
END $$;
