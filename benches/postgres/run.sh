#!/usr/bin/env bash
# Comanda on PostgreSQL: accepted and completed orders per second on 1, 2 and 3 nodes, beside a bare batched client that
# writes the same rows with pgbench on the same server.
#
#   benches/postgres/run.sh [--stored N] [--seconds S] [--nodes "1 2 3"] [--held] [--connections C] [--binary PATH]
#                           [--directory DIR]
#
# --stored N   so many finished orders are stored before (0); 5000000 takes a few minutes and about 8 GB
# --held       someone else holds a transaction open for the whole run
# --directory  where the server's files are: on the disk that is to be measured (a new directory under /var/tmp)
#
# Needs PostgreSQL's programs (initdb, pg_ctl, psql, pgbench) and jq; starts and stops a server of its own.
set -euo pipefail
cd "$(dirname "$0")/../.."

stored=0 seconds=30 nodes="1 2 3" held=no connections=64 binary=target/release/comanda directory=
while [ $# -gt 0 ]; do
    case $1 in
    --stored) stored=$2; shift 2 ;;
    --seconds) seconds=$2; shift 2 ;;
    --nodes) nodes=$2; shift 2 ;;
    --held) held=yes; shift ;;
    --connections) connections=$2; shift 2 ;;
    --binary) binary=$2; shift 2 ;;
    --directory) directory=$2; shift 2 ;;
    *) sed -n '2,13p' "$0"; exit 2 ;;
    esac
done
binary=$(realpath "$binary")
programs=$(find /usr/lib/postgresql -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -1)
PATH="${programs:+$programs:}$PATH"
[ -n "$directory" ] || directory=$(mktemp -d /var/tmp/comanda-bench-XXXXXX)
port=$((20000 + RANDOM % 20000))
address="postgres://postgres@127.0.0.1:$port/orders"
# The server refuses to run as root.
as_server() { if [ "$(id -u)" = 0 ]; then setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; else "$@"; fi; }
sql() { psql -X -q -A -t -h 127.0.0.1 -p "$port" -U postgres -d orders -v ON_ERROR_STOP=1 "$@"; }

pids=()
finish() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    as_server pg_ctl -D "$directory/data" -m fast stop >/dev/null 2>&1 || true
    rm -rf "$directory"
}
trap finish EXIT

if [ "$(id -u)" = 0 ]; then chown postgres "$directory"; fi
as_server initdb -D "$directory/data" -U postgres -A trust -E UTF8 --locale=C --data-checksums >/dev/null
as_server pg_ctl -D "$directory/data" -l "$directory/log" -w -o "-p $port -k $directory -c listen_addresses=127.0.0.1 \
    -c shared_buffers=1GB -c max_wal_size=8GB -c max_connections=200" start >/dev/null
psql -X -q -h 127.0.0.1 -p "$port" -U postgres -d postgres -c 'CREATE DATABASE orders'
"$binary" migrate up --store "$address" >/dev/null

# Finished orders, as the nodes leave them: two events and one attempt each.
fill() {
    [ "$stored" -gt 0 ] || return 0
    echo "storing $stored finished orders" >&2
    sql <<SQL
SET synchronous_commit = off;
CREATE TEMP TABLE made AS SELECT n AS seq, ('0190' || lpad(to_hex(n), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8'
    || substr(md5(n::text), 4, 11))::uuid AS id FROM generate_series(1, $stored) AS n;
INSERT INTO comanda.orders (id, seq, order_type, status, at, data)
    SELECT id, seq, 'stored', 'ACCEPTED', now() - interval '1 day', '{"amount":12.50,"currency":"EUR"}' FROM made;
INSERT INTO comanda.heads (id, seq, order_type, status, phase, type_hash, version, commit_id, events, attempts,
        updated_at, visit, attempt, head)
    SELECT id, seq, 'stored', 'COMPLETED', 4, '\\x00', 2, id, 2, 1, now() - interval '1 day', 1, 1,
        repeat('x', 450) FROM made;
INSERT INTO comanda.events (position, id, number, at, kind, from_status, to_status, by)
    SELECT nextval('comanda.feed_position'), id, e, now() - interval '1 day', e - 1, NULL, 'COMPLETED', 'step:record'
    FROM made, generate_series(1, 2) AS e;
INSERT INTO comanda.attempts (id, number, visit, attempt, step, undo, started_at, ended_at, outcome)
    SELECT id, 1, 1, 1, 'record', false, now(), now(), 0 FROM made;
SELECT setval('comanda.order_seq', $stored) \g /dev/null
VACUUM (ANALYZE);
CHECKPOINT;
SQL
}

# The same rows, written by a client that does nothing else: the accepting commit and the finishing one, 100 orders per
# transaction, into tables with the same indexes.
bare() {
    sql -c "CREATE SCHEMA bare;
        CREATE TABLE bare.orders (LIKE comanda.orders INCLUDING ALL);
        CREATE TABLE bare.heads (LIKE comanda.heads INCLUDING ALL);
        CREATE TABLE bare.events (LIKE comanda.events INCLUDING ALL);
        CREATE TABLE bare.attempts (LIKE comanda.attempts INCLUDING ALL);
        CREATE TABLE bare.due (LIKE comanda.due INCLUDING ALL);
        CREATE SEQUENCE bare.seq; CREATE SEQUENCE bare.position"
    cat >"$directory/bare.sql" <<'SQL'
BEGIN;
WITH made AS (
    INSERT INTO bare.orders (id, seq, order_type, status, at, data)
        SELECT gen_random_uuid(), nextval('bare.seq'), 'sale', 'ACCEPTED', now(), '{"amount":12.50,"currency":"EUR"}'
        FROM generate_series(1, 100) RETURNING id, seq
), heads AS (
    INSERT INTO bare.heads (id, seq, order_type, status, phase, type_hash, version, commit_id, events, attempts,
            updated_at, visit, attempt, head)
        SELECT id, seq, 'sale', 'ACCEPTED', 1, '\x00', 1, id, 1, 0, now(), 1, 1, repeat('x', 450) FROM made
), due AS (
    INSERT INTO bare.due (id, seq, due_at, visit, attempt) SELECT id, seq, now(), 1, 1 FROM made
) INSERT INTO bare.events (position, id, number, at, kind, by)
    SELECT nextval('bare.position'), id, 1, now(), 0, 'client' FROM made;
COMMIT;
BEGIN;
WITH gone AS (
    DELETE FROM bare.due WHERE id IN (SELECT id FROM bare.due LIMIT 100 FOR UPDATE SKIP LOCKED) RETURNING id
), heads AS (
    UPDATE bare.heads h SET status = 'COMPLETED', phase = 4, version = 2, events = 2, attempts = 1, head = repeat('y', 450)
    FROM gone WHERE h.id = gone.id
), attempts AS (
    INSERT INTO bare.attempts (id, number, visit, attempt, step, undo, started_at, ended_at, outcome)
        SELECT id, 1, 1, 1, 'record', false, now(), now(), 0 FROM gone
) INSERT INTO bare.events (position, id, number, at, kind, by)
    SELECT nextval('bare.position'), id, 2, now(), 1, 'step:record' FROM gone;
COMMIT;
SQL
    local rate
    rate=$(pgbench -n -h 127.0.0.1 -p "$port" -U postgres -f "$directory/bare.sql" -c 4 -j 2 -T "$seconds" orders 2>/dev/null |
        awk '/^tps/ { print int($3 * 100) }')
    sql -c "SET client_min_messages = warning; DROP SCHEMA bare CASCADE"
    echo "bare batched client: $rate orders/s written and finished"
}

finals() { sql -c "SELECT coalesce(sum(n), 0) FROM (SELECT kind, c, n FROM comanda.tally UNION ALL
    SELECT kind, c, n FROM comanda.tally_changes) AS t WHERE kind = 's' AND c = '4'"; }

measure() {
    local count=$1 node began ended before took urls=() results=()
    local started=()
    for node in $(seq "$count"); do
        mkdir -p "$directory/node-$count-$node"
        local log="$directory/node-$count-$node/log"
        (cd "$directory/node-$count-$node" && exec "$binary" serve --listen 127.0.0.1:0 --store "$address") >/dev/null 2>"$log" &
        started+=($!) pids+=($!)
        until grep -q 'is ready at http://' "$log"; do kill -0 $! && sleep 0.1; done
        urls+=("$(sed -n 's/.*is ready at \(http:[^;]*\).*/\1/p' "$log" | head -1)")
    done
    before=$(finals)
    began=$(date +%s.%N)
    local benches=()
    for node in $(seq "$count"); do
        "$binary" bench --url "${urls[$((node - 1))]}" --connections $((connections / count)) --duration "${seconds}s" \
            --no-check --output json >"$directory/result-$node" &
        benches+=($!)
    done
    wait "${benches[@]}"
    # Until nothing is at work any more.
    until [ "$(sql -c 'SELECT count(*) FROM (SELECT 1 FROM comanda.due LIMIT 1) AS d')" = 0 ]; do sleep 0.2; done
    ended=$(date +%s.%N)
    took=$(echo "$ended - $began" | bc)
    local accepted p99
    accepted=$(jq -s 'map(.accepted / (.tookMs / 1000)) | add | floor' "$directory"/result-*)
    p99=$(jq -s 'map(.submitMicros.p99) | max' "$directory"/result-*)
    echo "$count nodes: accepted $accepted/s, completed $(echo "($(finals) - $before) / $took" | bc)/s, p99 of a submission $p99 µs"
    rm -f "$directory"/result-*
    kill "${started[@]}"
    wait "${started[@]}" || true
}

fill
if [ "$held" = yes ]; then
    # A snapshot that nothing after it can be removed for.
    sql -c "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT txid_current(); SELECT pg_sleep(86400)" >/dev/null 2>&1 &
    pids+=($!)
    echo "a transaction is held open"
fi
echo "$stored orders stored, $seconds s each, $connections connections"
bare
for count in $nodes; do measure "$count"; done
sql -F ' ' -c "SELECT relname, n_live_tup || ' live', n_dead_tup || ' dead', autovacuum_count || ' vacuums'
    FROM pg_stat_user_tables WHERE schemaname = 'comanda' AND n_tup_ins > 0 ORDER BY n_dead_tup DESC LIMIT 6"
