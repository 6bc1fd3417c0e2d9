-- Format 6 only adds: postings and movements of orders are counted, so that one that is lost as a whole is found. Nodes of the
-- formats before go on beside it: they call the functions that count.

-- What is counted, as rows of changes; nobody updates a counter ('p': postings, 'e': `ledger_entries`).
CREATE TABLE comanda.ledger_counts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind "char" NOT NULL, n bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);

-- What is there is counted now, for while a column is added nobody else writes. A call that began before under a function of the
-- format before adds rows that are not `counted`.
ALTER TABLE comanda.ledger_entries ADD COLUMN counted boolean DEFAULT true;
ALTER TABLE comanda.ledger_entries ALTER COLUMN counted DROP DEFAULT;
ALTER TABLE comanda.postings ADD COLUMN counted boolean DEFAULT true;
ALTER TABLE comanda.postings ALTER COLUMN counted DROP DEFAULT;
INSERT INTO comanda.ledger_counts (kind, n) SELECT 'e', count(*) FROM comanda.ledger_entries UNION ALL
    SELECT 'p', count(*) FROM comanda.postings;

-- Such a call cannot remove anything either: it is told to come again (`serialization_failure`), and then it is a new one. Nor
-- can a hand that does not know of the counts.
CREATE FUNCTION comanda.refuse_uncounted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('comanda.counts_what_it_removes', true) IS DISTINCT FROM 'yes' THEN
        RAISE EXCEPTION 'rows of % are removed by retention alone', TG_TABLE_NAME USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER removed_with_count BEFORE DELETE ON comanda.ledger_entries FOR EACH STATEMENT
    EXECUTE FUNCTION comanda.refuse_uncounted();
CREATE TRIGGER removed_with_count BEFORE DELETE ON comanda.postings FOR EACH STATEMENT
    EXECUTE FUNCTION comanda.refuse_uncounted();
