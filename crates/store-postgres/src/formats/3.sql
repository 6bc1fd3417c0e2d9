-- Format 3 only adds: rates that nodes hold together. Nodes of format 2 go on beside it, and count by themselves.

-- `full_at`, in microseconds since 1970: when what was taken of a rate will have come back. Unlogged, since a rate need not
-- outlive a crash; so taking a share waits for no disk.
CREATE UNLOGGED TABLE comanda.rates (name text COLLATE "C" PRIMARY KEY, full_at bigint NOT NULL)
    WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
