#!/usr/bin/env python3
"""Comanda on PostgreSQL beside a bare client that writes the same rows into the same server.

Usage: benches/postgres/measure.py [COMANDA, default target/release/comanda] [--stored N, default 5000000]
       [--seconds S, default 10] [--nodes "1 2 3"] [--connections C, default 64] [--directory DIR] [--json FILE]

One run measures, in a new database and in one that holds so many finished orders, without and with a transaction that
someone else holds open: the bare client, then one, two and three nodes. Of each: orders/s, the p99 of a submission, and what
one order costs the server in CPU time and in write-ahead log; these two depend least on what else the machine does. It prints a
table, and writes the same as JSON. Each measurement takes S seconds and what its orders then take to end; all of it about
10 minutes, and the 5 million stored orders some minutes and 10 GB more.

`accept`: orders that are accepted and wait, submitted in batches of 100. `life`: orders of two durable states, submitted one
by one and worked to their end. The bare client is pgbench on 4 connections, with prepared statements. It does nothing but insert
and update the rows that such an order leaves, 100 orders in each transaction, in tables that are made like Comanda's with all their
indexes; it keeps no counts and draws positions in the feed without a lock. Once it copies the rows inside the server from those of
a real order (`bare copies`), so nothing has to be sent or parsed: this is what the server can do at most. And once it sends what
differs from order to order, which is the data, the head, the commit's id, the trace and the times (`bare sends`): this is what a
client that has these orders can do at most. Nodes are compared with the one that sends.

Stored orders are made from one real finished order, which is copied in SQL with new ids, in all tables and indexes that it
stands in; `comanda verify` then looks through all of them.

Needs PostgreSQL's programs (initdb, pg_ctl, psql, pgbench); starts and stops a server of its own.
"""
import argparse
import contextlib
import glob
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TICKS = os.sysconf("SC_CLK_TCK")
SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "max_connections": "200", "listen_addresses": "127.0.0.1"}
# What is submitted: an order that waits, and one that is worked to its end.
ORDER_TYPES = {"accept": "note", "life": "sale"}
# The bare client's statements are planned once, while its tables are empty: as Comanda's, so that rows are found by an index.
BY_INDEX = " ".join(f"-c {name}" for name in ["plan_cache_mode=force_generic_plan", "jit=off", "enable_seqscan=off", "enable_hashjoin=off",
                                              "enable_mergejoin=off"])
# How long the orders of one measurement may take to end.
SETTLE_S = 120


def arguments():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("comanda", nargs="?", default=os.path.join(ROOT, "target/release/comanda"))
    parser.add_argument("--stored", type=int, default=5_000_000)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--nodes", default="1 2 3")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--directory")
    parser.add_argument("--json")
    return parser.parse_args()


class Postgres:
    """A server of our own; it refuses to run as root."""

    def __init__(self, directory):
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[-2].split(".")[0]))
        self.programs = found[-1] if found else None
        self.directory = directory
        self.port = random.randint(20_000, 32_000)
        self.user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
        if self.user:
            shutil.chown(directory, "postgres", "postgres")
        data = os.path.join(directory, "data")
        self.run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--data-checksums")
        options = " ".join([f"-p {self.port} -k {directory}", *[f"-c {name}={value}" for name, value in SETTINGS.items()]])
        self.run("pg_ctl", "-D", data, "-l", os.path.join(directory, "log"), "-w", "-o", options, "start")
        with open(os.path.join(data, "postmaster.pid")) as file:
            self.process = int(file.readline())

    def program(self, name):
        return os.path.join(self.programs, name) if self.programs else name

    def run(self, name, *rest):
        done = subprocess.run([*self.user, self.program(name), *rest], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"{name} failed: {done.stderr}")

    def stop(self):
        self.run("pg_ctl", "-D", os.path.join(self.directory, "data"), "-m", "fast", "stop")

    def client(self, database):
        return [self.program("psql"), "-X", "-q", "-A", "-t", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres",
                "-v", "ON_ERROR_STOP=1", "-d", database]

    def sql(self, database, text):
        done = subprocess.run(self.client(database), input=text, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"{text}\n{done.stderr}")
        return done.stdout.strip()

    def address(self, database):
        return f"postgres://postgres@127.0.0.1:{self.port}/{database}"

    def cpu_s(self):
        """What the server's processes have used, those that have ended too."""
        total = 0
        for stat in glob.glob("/proc/[0-9]*/stat"):
            try:
                with open(stat) as file:
                    process, rest = file.read().split(" ", 1)
            except OSError:
                continue
            fields = rest.rsplit(")", 1)[1].split()
            if int(process) == self.process:
                total += sum(map(int, fields[11:15]))
            elif int(fields[1]) == self.process:
                total += sum(map(int, fields[11:13]))
        return total / TICKS

    def wal(self):
        return int(self.sql("postgres", "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"))


# Ended with this one, however it ends.
STARTED = []


def started(*arguments, **settings):
    process = subprocess.Popen(*arguments, **settings)
    STARTED.append(process)
    return process


class Held:
    """Someone else's transaction, in which nothing happens and nothing after it can be removed."""

    def __init__(self, postgres, database):
        self.process = started(postgres.client(database), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdin.write("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT txid_current();\n")
        self.process.stdin.flush()
        self.process.stdout.readline()

    def end(self):
        self.process.communicate()


class Node:
    def __init__(self, comanda, directory, address):
        os.makedirs(directory, exist_ok=True)
        self.log = os.path.join(directory, "log")
        types = os.path.join(ROOT, "benches/order-types")
        with open(self.log, "w") as log:
            self.process = started(
                [comanda, "serve", "--listen", "127.0.0.1:0", "--store", address, "--order-types", types],
                cwd=directory, stdout=subprocess.DEVNULL, stderr=log)
        self.url = None
        while self.url is None:
            time.sleep(0.05)
            with open(self.log) as log:
                text = log.read()
            if "is ready at http://" in text:
                self.url = text.split("is ready at ")[1].split(";")[0].split()[0]
            elif self.process.poll() is not None:
                sys.exit(text)

    def cpu_s(self):
        with open(f"/proc/{self.process.pid}/stat") as file:
            return sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13])) / TICKS

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


class Bench:
    def __init__(self, options):
        self.options = options
        self.comanda = os.path.realpath(options.comanda)
        self.directory = options.directory or tempfile.mkdtemp(prefix="comanda-bench-", dir="/var/tmp")
        os.makedirs(self.directory, exist_ok=True)
        os.chmod(self.directory, 0o755)
        self.postgres = Postgres(self.directory)
        self.rows = []
        self.held = None

    def sql(self, text):
        return self.postgres.sql(self.name, text)

    def database(self, name):
        """A new database with some orders, of which one that waits and one that is finished are what others are copied from."""
        self.name = name
        self.postgres.sql("postgres", f"CREATE DATABASE {name}")
        nodes = self.start(1)
        for order_type in ORDER_TYPES.values():
            self.load(nodes, 1, ["--type", order_type, "--connections", "1"])
        self.settle()
        nodes[0].stop()
        # With their keys, orders have rows that others do not have; none of these has one.
        self.sql("CREATE SCHEMA bare; " + "".join(
            f"CREATE TABLE bare.{kind} AS SELECT id FROM comanda.heads WHERE order_type = '{order_type}' ORDER BY seq DESC LIMIT 1;"
            for kind, order_type in ORDER_TYPES.items()))
        if self.sql("SELECT count(*) FROM comanda.keys") != "0":
            sys.exit("an order has keys now, which the bare client would have to write too")

    def start(self, count):
        address = self.postgres.address(self.name)
        return [Node(self.comanda, os.path.join(self.directory, f"node-{number}"), address) for number in range(count)]

    def load(self, nodes, seconds, words):
        """Submits to all nodes at once; what each load generator found."""
        common = ["--duration", f"{seconds}s", "--no-check", "--output", "json"]
        loads = [started([self.comanda, "bench", "--url", node.url, *common, *words], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True) for node in nodes]
        found = []
        for load in loads:
            out, error = load.communicate()
            if load.returncode != 0:
                sys.exit(f"comanda bench failed: {error}")
            found.append(json.loads(out))
        return found

    def settle(self):
        """Waits until nothing is at work any more."""
        give_up = time.monotonic() + SETTLE_S
        while self.sql("SELECT EXISTS (SELECT FROM comanda.due)") == "t":
            if time.monotonic() > give_up:
                sys.exit(f"orders are still at work {SETTLE_S} s after the last was submitted")
            time.sleep(0.1)

    def copied(self, table, kind, columns, where="true", source="made m"):
        """The columns of a table, and a query that copies them from the order to copy, some of them replaced."""
        names = self.sql(f"SELECT column_name FROM information_schema.columns WHERE table_schema = 'comanda' "
                         f"AND table_name = '{table}' AND is_generated = 'NEVER' ORDER BY ordinal_position").split()
        values = ", ".join(columns.get(name, f"t.{name}") for name in names)
        return (f"({', '.join(names)}) SELECT {values} FROM {source}, comanda.{table} t "
                f"WHERE t.id = (SELECT id FROM bare.{kind}) AND {where}")

    def fill(self):
        """Stores finished orders; seconds that it took."""
        began = time.monotonic()
        position = "nextval('comanda.feed_position')"
        own = {"id": "m.id", "seq": "m.seq", "position": position}
        statements = [f"INSERT INTO comanda.{table} {self.copied(table, 'life', own)};"
                      for table in ["orders", "heads", "events", "attempts"]]
        # Ids as of orders that were accepted a day ago, ten in each millisecond.
        made = """CREATE TEMP TABLE made ON COMMIT DROP AS SELECT nextval('comanda.order_seq') AS seq, (lpad(to_hex(
            (extract(epoch FROM now()) * 1000)::bigint - 86400000 + n / 10), 12, '0') || '7' || substr(md5(n::text), 1, 3)
            || '8' || substr(md5(n::text), 4, 15))::uuid AS id FROM generate_series({}, {}) AS n;"""
        # Statements that change many rows are no faster for larger transactions.
        for first in range(1, self.options.stored + 1, 100_000):
            last = min(first + 99_999, self.options.stored)
            self.sql("BEGIN; SET LOCAL synchronous_commit = off;" + made.format(first, last) + "\n".join(statements)
                     + f"""INSERT INTO comanda.tally_changes (kind, a, b, c, n) SELECT 's', order_type, status, phase::text,
                     {last - first + 1} FROM comanda.heads WHERE id = (SELECT id FROM bare.life); COMMIT;""")
            print(f"\r{last:,} of {self.options.stored:,} orders stored", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        # Nodes that had taken these orders would have read their events too; else the first to start reads them while it is measured.
        self.sql("UPDATE comanda.subscriptions SET position = (SELECT max(position) FROM comanda.events)")
        self.sql("VACUUM (ANALYZE)")
        self.sql("CHECKPOINT")
        took = time.monotonic() - began
        self.verify()
        return took

    def verify(self):
        done = subprocess.run([self.comanda, "verify", "--store", self.postgres.address(self.name)], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            sys.exit(f"comanda verify: {done.stdout}")

    def bare_statements(self, kind, sends):
        own = {"id": "m.id", "seq": "m.seq", "position": "nextval('bare.position')", "at": "now()"}
        final = {"commit_id": "t.commit_id", "head": "t.head", "updated_at": "now()"}
        if sends:
            own |= {name: f"m.{name}" for name in ["data", "head", "commit_id", "traceparent", "at", "updated_at"]}
            final = {name: f"m.{name}" for name in final}
        insert = lambda table, where="true", source="made m": (
            f"INSERT INTO bare.{table} " + self.copied(table, kind, own, where, source))
        parts = [insert("orders"), insert("heads")]
        if kind == "life":
            parts.append("""INSERT INTO bare.due (id, seq, due_at, visit, attempt, held_visit, held_attempt, secret, lease_until,
                node) SELECT m.id, m.seq, now(), 1, 1, 1, 1, m.id, now() + interval '1 minute', m.id FROM made m""")
        accept = ", ".join(f"w{number} AS ({part})" for number, part in enumerate(parts))
        last = insert("events", "t.number = 1")
        made = f"""made AS MATERIALIZED (SELECT nextval('bare.seq') AS seq, (lpad(to_hex(
            (extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0') || '7' || substr(r, 1, 3) || '8'
            || substr(r, 4, 15))::uuid AS id, n.* FROM (SELECT md5(n.n || random()::text) AS r, n.*
            FROM {self.rows_sent("first") if sends else "generate_series(1, 100) AS n(n)"}) AS n)"""
        text = f"WITH {made}, {accept}, w AS ({last}) SELECT array_agg(id) AS ids FROM made \\gset\n"
        if kind == "life":
            ids = self.rows_sent("last", "unnest(:ids::uuid[]) AS id, ") if sends else "(SELECT unnest(:ids::uuid[]) AS id) AS m"
            parts = ["DELETE FROM bare.due WHERE id = ANY (:ids::uuid[])",
                     f"""UPDATE bare.heads h SET status = t.status, version = h.version + 1, commit_id = {final["commit_id"]},
                     events = t.events, attempts = t.attempts, updated_at = {final["updated_at"]}, due_at = NULL,
                     head = {final["head"]} FROM comanda.heads t, {ids}
                     WHERE t.id = (SELECT id FROM bare.life) AND h.id = m.id""",
                     insert("attempts", source=ids)]
            finish = ", ".join(f"w{number} AS ({part})" for number, part in enumerate(parts))
            text += f"WITH {finish} {insert('events', 't.number > 1', ids)};\n"
        return text

    # What differs from order to order, and where the rows to send have it from.
    SENT = {"data": ("text", "o.data"), "head": ("text", "h.head"), "commit_id": ("uuid", "gen_random_uuid()"),
            "traceparent": ("text", "o.traceparent"), "at": ("timestamptz", "clock_timestamp()"),
            "updated_at": ("timestamptz", "clock_timestamp()")}

    def rows_sent(self, which, more=""):
        """The rows that are sent with a statement, from arrays, one of each column."""
        # With an order's last commit, its data is not sent again.
        names = [name for name in self.SENT if which == "first" or name not in ["data", "traceparent"]]
        columns = ", ".join(f"unnest(:{which}_{name}::{self.SENT[name][0]}[]) AS {name}" for name in names)
        return f"(SELECT {more}generate_series(1, 100) AS n, {columns}) AS " + ("n" if which == "first" else "m")

    def values_sent(self, kind):
        """The values of these arrays, as options of pgbench."""
        options = []
        for which in ["first", "last"]:
            for name, (element, source) in self.SENT.items():
                value = self.sql(f"""SELECT array_agg({source})::{element}[]::text FROM generate_series(1, 100), comanda.orders o
                    JOIN comanda.heads h ON h.id = o.id WHERE o.id = (SELECT id FROM bare.{kind})""")
                options += ["-D", f"{which}_{name}={value}"]
        return options

    def bare(self, kind, sends):
        tables = "".join(f"CREATE TABLE bare.{table} (LIKE comanda.{table} INCLUDING ALL);"
                         f"ALTER TABLE bare.{table} SET (autovacuum_vacuum_cost_delay = 0);"
                         for table in ["orders", "heads", "events", "attempts", "due"])
        self.sql(tables + "CREATE SEQUENCE bare.seq; CREATE SEQUENCE bare.position;")
        script = os.path.join(self.directory, "bare.sql")
        with open(script, "w") as file:
            file.write(self.bare_statements(kind, sends))
        values = self.values_sent(kind) if sends else []
        with self.measured("bare sends" if sends else "bare copies", kind) as found:
            done = subprocess.run(
                [self.postgres.program("pgbench"), "-n", "-h", "127.0.0.1", "-p", str(self.postgres.port), "-U", "postgres", "-f",
                 script, "-M", "prepared", *values, "-c", "4", "-j", "2", "-T", str(self.options.seconds), self.name],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PGOPTIONS": BY_INDEX})
            if done.returncode != 0:
                sys.exit(f"pgbench failed: {done.stderr}")
            lines = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
            found["orders"] = int(lines["number of transactions actually processed"].split("/")[0]) * 100
            found["seconds"] = self.options.seconds
        found["acceptedPerSecond"] = round(found["orders"] / found["seconds"])
        if kind == "life":
            found["completedPerSecond"] = found["acceptedPerSecond"]
        self.add(found)
        self.sql("SET client_min_messages = warning; DROP TABLE bare.orders, bare.heads, bare.events, bare.attempts, bare.due; "
                 "DROP SEQUENCE bare.seq, bare.position")
        return found

    def comanda_nodes(self, count, kind, bare):
        nodes = self.start(count)
        words = ["--type", ORDER_TYPES[kind]]
        if kind == "accept":
            words += ["--batch", "100", "--connections", str(max(8 // count, 1))]
        else:
            words += ["--connections", str(self.options.connections // count)]
        with self.measured(f"{count} node{'s' if count > 1 else ''}", kind) as found:
            used = sum(node.cpu_s() for node in nodes)
            loads = self.load(nodes, self.options.seconds, words)
            began = time.monotonic() - max(load["tookMs"] for load in loads) / 1000
            self.settle()
            found["seconds"] = time.monotonic() - began
            found["orders"] = sum(load["accepted"] for load in loads)
            used = sum(node.cpu_s() for node in nodes) - used
        found["acceptedPerSecond"] = round(sum(load["accepted"] / load["tookMs"] * 1000 for load in loads))
        if kind == "life":
            # All of them are final, and it took so long until the last was.
            found["completedPerSecond"] = round(found["orders"] / found["seconds"])
        found["p99Ms"] = round(max(load["submitMicros"]["p99"] for load in loads) / 1000, 1)
        found["nodeMicrosPerOrder"] = round(used / max(found["orders"], 1) * 1e6)
        found["ofBare"] = round(found["acceptedPerSecond"] / bare["acceptedPerSecond"], 2)
        found["serverCostOfBare"] = round(found["serverMicrosPerOrder"] / bare["serverMicrosPerOrder"], 1)
        self.add(found)
        for node in nodes:
            node.stop()

    @contextlib.contextmanager
    def measured(self, writer, kind):
        found = {"stored": self.stored, "held": self.held is not None, "what": kind, "writer": writer}
        cpu_s, wal = self.postgres.cpu_s(), self.postgres.wal()
        yield found
        cpu_s, wal = self.postgres.cpu_s() - cpu_s, self.postgres.wal() - wal
        found["serverMicrosPerOrder"] = round(cpu_s / max(found["orders"], 1) * 1e6)
        found["walBytesPerOrder"] = round(wal / max(found["orders"], 1))

    def add(self, found):
        self.rows.append(found)
        cell = lambda name, form="{}": form.format(found[name]) if name in found else ""
        print(f"| {found['stored']:,} | {'held' if found['held'] else 'none'} | {found['what']} | {found['writer']} "
              f"| {cell('acceptedPerSecond', '{:,}')} | {cell('completedPerSecond', '{:,}')} | {cell('ofBare')} | {cell('p99Ms')} "
              f"| {cell('serverMicrosPerOrder')} | {cell('nodeMicrosPerOrder')} | {cell('walBytesPerOrder')} |", flush=True)

    def all(self):
        for self.held in [None, "held"]:
            # What a measurement leaves to be written and removed is not the next one's.
            self.sql("VACUUM (ANALYZE)")
            self.sql("CHECKPOINT")
            if self.held:
                self.held = Held(self.postgres, self.name)
            for kind in ORDER_TYPES:
                self.bare(kind, sends=False)
                bare = self.bare(kind, sends=True)
                for count in self.options.nodes.split():
                    self.comanda_nodes(int(count), kind, bare)
            if self.held:
                self.held.end()

    def run(self):
        began = time.monotonic()
        print("| stored | open transaction | what | writer | accepted/s | completed/s | of bare | p99 ms | server µs/order "
              "| node µs/order | WAL bytes/order |\n" + "|---" * 11 + "|", flush=True)
        figures = {"settings": SETTINGS, "seconds": self.options.seconds, "cores": os.cpu_count(), "rows": self.rows}
        self.stored = 0
        self.database("empty")
        self.all()
        self.verify()
        if self.options.stored:
            self.postgres.sql("postgres", "DROP DATABASE empty")
            self.database("filled")
            self.stored = self.options.stored
            figures["fillSeconds"] = round(self.fill())
            figures["filledBytes"] = int(self.sql("SELECT pg_database_size(current_database())"))
            self.all()
            print(f"\n{self.stored:,} orders were stored in {figures['fillSeconds']} s and take "
                  f"{figures['filledBytes'] / 1e9:.2f} GB.")
        figures["tookSeconds"] = round(time.monotonic() - began)
        print(f"\nAll of it took {figures['tookSeconds']} s.")
        if self.options.json:
            with open(self.options.json, "w") as file:
                json.dump(figures, file, indent=1)

    def finish(self):
        for process in STARTED:
            if process.poll() is None:
                process.kill()
        self.postgres.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


def main():
    bench = Bench(arguments())
    try:
        bench.run()
    finally:
        bench.finish()


if __name__ == "__main__":
    main()
