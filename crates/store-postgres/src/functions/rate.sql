-- Rates that nodes hold together.

-- Takes from `p_least` to `p_most` of a rate that gives one each `p_interval` microseconds and `p_burst` at once, or nothing.
-- The generic cell rate algorithm, by the database's clock. `retry_us`: after how long `p_least` can be taken, where they
-- were not and ever can be.
CREATE OR REPLACE FUNCTION comanda.lease_rate(p_name text, p_interval bigint, p_burst integer, p_least integer,
    p_most integer)
RETURNS TABLE (granted integer, room integer, retry_us bigint) LANGUAGE plpgsql AS $$
DECLARE
    v_full bigint; v_now bigint; v_ahead bigint := p_burst * p_interval;
BEGIN
    INSERT INTO comanda.rates AS r (name, full_at) VALUES (p_name, 0) ON CONFLICT (name) DO NOTHING;
    SELECT r.full_at INTO v_full FROM comanda.rates r WHERE r.name = p_name FOR UPDATE;
    -- Read once the row is ours: what others took while it was not has its time in it.
    v_now := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    -- Not further ahead than a whole burst: what was taken under a slower rate or a larger burst does not hold the key.
    v_full := least(greatest(v_full, v_now), v_now + v_ahead);
    room := ((v_now + v_ahead - v_full) / p_interval)::integer;
    IF room < p_least THEN
        granted := 0;
        retry_us := CASE WHEN p_least <= p_burst THEN v_full + p_least * p_interval - v_ahead - v_now END;
        -- What was cut off above stays cut off, or it would be cut off anew each time and never come back.
        UPDATE comanda.rates r SET full_at = v_full WHERE r.name = p_name AND r.full_at > v_full;
    ELSE
        granted := least(room, p_most);
        room := room - granted;
        UPDATE comanda.rates r SET full_at = v_full + granted * p_interval WHERE r.name = p_name;
    END IF;
    RETURN NEXT;
END $$;
