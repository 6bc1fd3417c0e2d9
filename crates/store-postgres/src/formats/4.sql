-- Format 4 only adds: events of the feed that belong to no order. Nodes of format 3 go on beside it, and pass them by.

-- `position` is drawn from the feed's sequence, under the feed's lock.
CREATE TABLE comanda.notices (
    position bigint PRIMARY KEY, id text COLLATE "C" NOT NULL UNIQUE, at timestamptz NOT NULL, notice text NOT NULL);
