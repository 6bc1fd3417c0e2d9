-- The ledger's movements that belong to no order, and records.

-- Locks accounts, each by its row, in the order of their names; makes those that are not there.
CREATE OR REPLACE FUNCTION comanda.lock_accounts(p_accounts text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO comanda.accounts (name)
        SELECT DISTINCT a.name COLLATE "C" FROM unnest(p_accounts) AS a(name) ORDER BY 1 ON CONFLICT DO NOTHING;
    PERFORM 1 FROM comanda.accounts WHERE name = ANY (p_accounts) ORDER BY name FOR UPDATE;
END $$;

-- Applies a posting: all lines or none. `b_account` and `b_place` are the places that it touches, each once, in the order of
-- their names; lines name them by their number, from 1. Outcomes: 0 applied, 1 applied before, 2 its id was used for
-- another, 3 the quantity that it rests on has moved (`actual`), 4 too little in a place (`short`: places' numbers, what
-- was wanted, what is there).
CREATE OR REPLACE FUNCTION comanda.post(p_once text, p_fingerprint bytea, p_expect integer, p_expected bigint,
    b_account text[], b_place text[], l_from integer[], l_to integer[], l_quantity bigint[])
RETURNS TABLE (outcome smallint, actual bigint, short text)
LANGUAGE plpgsql
SET lock_timeout = '5s'
AS $$
#variable_conflict use_column
DECLARE
    v_quantity bigint[]; v_change bigint[]; v_wanted bigint[]; v_short text[] := '{}'; v_fingerprint bytea;
    v_places integer := coalesce(array_length(b_account, 1), 0);
BEGIN
    PERFORM comanda.lock_accounts(b_account);
    SELECT fingerprint INTO v_fingerprint FROM comanda.postings WHERE once = p_once;
    IF FOUND THEN
        RETURN QUERY SELECT CASE WHEN v_fingerprint = p_fingerprint THEN 1 ELSE 2 END::smallint, 0::bigint, NULL::text;
        RETURN;
    END IF;
    v_quantity := ARRAY(SELECT coalesce(b.quantity, 0) FROM unnest(b_account, b_place) WITH ORDINALITY AS n(account, place, number)
        LEFT JOIN comanda.balances b ON b.account = n.account AND b.place = n.place ORDER BY n.number);
    IF p_expect IS NOT NULL AND v_quantity[p_expect] <> p_expected THEN
        RETURN QUERY SELECT 3::smallint, v_quantity[p_expect], NULL::text;
        RETURN;
    END IF;
    v_change := array_fill(0::bigint, ARRAY[v_places]);
    v_wanted := array_fill(0::bigint, ARRAY[v_places]);
    FOR i IN 1 .. coalesce(array_length(l_from, 1), 0) LOOP
        v_change[l_from[i]] := v_change[l_from[i]] - l_quantity[i];
        v_wanted[l_from[i]] := v_wanted[l_from[i]] + l_quantity[i];
        v_change[l_to[i]] := v_change[l_to[i]] + l_quantity[i];
    END LOOP;
    FOR i IN 1 .. v_places LOOP
        IF v_change[i] < 0 AND v_quantity[i] + v_change[i] < 0 AND b_place[i] <> 'outside' THEN
            v_short := v_short || format('[%s,%s,%s]', i, v_wanted[i], greatest(v_quantity[i], 0));
        END IF;
    END LOOP;
    IF array_length(v_short, 1) > 0 THEN
        RETURN QUERY SELECT 4::smallint, 0::bigint, '[' || array_to_string(v_short, ',') || ']';
        RETURN;
    END IF;
    INSERT INTO comanda.balances AS b (account, place, quantity)
        SELECT n.account, n.place, n.change FROM unnest(b_account, b_place, v_change) AS n(account, place, change)
        WHERE n.change <> 0
        ON CONFLICT (account, place) DO UPDATE SET quantity = b.quantity + EXCLUDED.quantity;
    INSERT INTO comanda.ledger_flows AS f (account, source, target, quantity)
        SELECT b_account[l.f], b_place[l.f], b_place[l.t], sum(l.quantity)
        FROM unnest(l_from, l_to, l_quantity) AS l(f, t, quantity) GROUP BY 1, 2, 3
        ON CONFLICT (account, source, target) DO UPDATE SET quantity = f.quantity + EXCLUDED.quantity;
    INSERT INTO comanda.postings (once, fingerprint, at, counted) VALUES (p_once, p_fingerprint, clock_timestamp(), true);
    INSERT INTO comanda.ledger_counts (kind, n) VALUES ('p', 1);
    RETURN QUERY SELECT 0::smallint, 0::bigint, NULL::text;
END $$;

-- Writes a record whole, if it is the version after the one that stands; answers the version that stood.
CREATE OR REPLACE FUNCTION comanda.put_record(p_kind text, p_key text, p_version bigint, p_value text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_actual bigint;
BEGIN
    IF p_version = 1 THEN
        INSERT INTO comanda.records (kind, key, version, value) VALUES (p_kind, p_key, 1, p_value) ON CONFLICT DO NOTHING;
        IF FOUND THEN
            RETURN 0;
        END IF;
    END IF;
    SELECT version INTO v_actual FROM comanda.records WHERE kind = p_kind AND key = p_key FOR UPDATE;
    IF v_actual = p_version - 1 THEN
        UPDATE comanda.records SET version = p_version, value = p_value WHERE kind = p_kind AND key = p_key;
    END IF;
    RETURN coalesce(v_actual, 0);
END $$;
