CREATE TABLE orders (
    seq bigint GENERATED ALWAYS AS IDENTITY, id text PRIMARY KEY, status text NOT NULL, data jsonb NOT NULL,
    accepted_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);
CREATE INDEX orders_received ON orders (seq) WHERE status = 'RECEIVED';
CREATE TABLE events (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, order_id text NOT NULL, status text NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
