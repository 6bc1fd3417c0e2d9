"""Starts each peer, loads it with wrk, waits until every accepted order is completed, kills it under load to see that it
keeps what it acknowledged, and writes what was measured, for plot.py, and a table. Started by run.sh."""
import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MADE = ROOT / "target" / "peers"
CONNECTIONS = 64


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def call(url: str, body: dict | None = None, timeout: float = 10) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"} if data else {})
    try:
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
    # Who is killed in the middle of an answer has acknowledged nothing.
    except (OSError, ValueError, http.client.HTTPException):
        return 0, ""


def wait(what: str, ready, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise SystemExit(f"{what} did not happen within {seconds} s")
        time.sleep(0.05)


class Peer:
    """One system: its processes in a directory of its own."""

    name = ""
    title = ""
    path = "/orders"

    def __init__(self, work: pathlib.Path) -> None:
        self.work = work / self.name
        self.work.mkdir()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.processes: list[subprocess.Popen] = []

    def spawn(self, *command: object, user: str | None = None, **environment: object) -> subprocess.Popen:
        log = (self.work / "log").open("ab")
        started = subprocess.Popen(
            [str(part) for part in command], cwd=self.work, stdout=log, stderr=log, user=user, start_new_session=True,
            env={**os.environ, "NODE_PATH": str(MADE / "node_modules"), **{key: str(value) for key, value in environment.items()}},
        )
        self.processes.append(started)
        return started

    def start(self) -> None:
        raise NotImplementedError

    def kill(self) -> None:
        """Ends everything at once: each process with its group, by SIGKILL."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes.clear()

    def is_drained(self) -> bool:
        raise NotImplementedError

    def has(self, order: str) -> bool:
        return call(f"{self.url}/orders/{order}")[0] == 200

    def is_ready(self) -> bool:
        return call(f"{self.url}/orders/none")[0] == 404


class Comanda(Peer):
    name = "comanda"
    title = "Comanda (embedded store)"
    path = "/purchase"

    def start(self) -> None:
        program = pathlib.Path(os.environ.get("PEER_COMANDA") or ROOT / "target/release/comanda").resolve()
        self.spawn(program, "serve", "--listen", f"127.0.0.1:{self.port}")
        wait("Comanda's start", lambda: call(f"{self.url}/readyz")[0] == 200)

    def is_drained(self) -> bool:
        def none(status: str) -> bool:
            code, text = call(f"{self.url}/v1/orders?type=purchase&status={status}&limit=1")
            return code == 200 and not json.loads(text)["items"]

        return none("RECEIVED") and none("PROCESSING")

    def has(self, order: str) -> bool:
        return call(f"{self.url}/purchase/{order}")[0] == 200


class Postgres(Peer):
    """A cluster of its own; fsync and synchronous_commit are on, as they are by default."""

    SETTINGS = {
        "shared_buffers": "512MB", "max_wal_size": "4GB", "wal_compression": "on", "checkpoint_completion_target": "0.9",
        "max_connections": "100", "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "jit": "off",
    }

    def start(self) -> None:
        found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))
        bin_directory = found[-1] if found else pathlib.Path(shutil.which("postgres") or "").parent
        # PostgreSQL refuses to run as root.
        user = "postgres" if os.geteuid() == 0 else None
        data = self.work / "pg"
        if not data.exists():
            data.mkdir()
            if user:
                shutil.chown(data, user)
            subprocess.run(
                [bin_directory / "initdb", "-D", data, "-U", "peer", "-A", "trust"], check=True, user=user, cwd="/",
                stdout=subprocess.DEVNULL,
            )
            self.pg_port = free_port()
        # What a killed server leaves; its successor looks whether that process lives, which it does not.
        settings = [part for name, value in self.SETTINGS.items() for part in ("-c", f"{name}={value}")]
        self.spawn(bin_directory / "postgres", "-D", data, "-p", self.pg_port, "-k", data, "-h", "127.0.0.1", *settings, user=user)
        self.dsn = f"postgresql://peer@127.0.0.1:{self.pg_port}/postgres"
        wait("PostgreSQL's start", lambda: self.sql("SELECT 1") == "1")
        if self.sql("SELECT to_regclass('orders')") == "":
            subprocess.run(["psql", self.dsn, "-q", "-f", HERE / "schema.sql"], check=True)
        self.start_clients()
        wait(f"the start of {self.name}", self.is_ready)

    def sql(self, text: str) -> str:
        return subprocess.run(["psql", self.dsn, "-Atc", text], capture_output=True, text=True, check=False).stdout.strip()

    def start_clients(self) -> None:
        raise NotImplementedError

    def is_drained(self) -> bool:
        return self.sql("SELECT count(*) FROM (SELECT 1 FROM orders WHERE status <> 'COMPLETED' LIMIT 1) AS open") == "0"


class FastApi(Postgres):
    name = "fastapi"
    title = "FastAPI + PostgreSQL + worker"

    def start_clients(self) -> None:
        self.spawn(
            MADE / "venv/bin/uvicorn", "fastapi_app:app", "--app-dir", HERE, "--port", self.port, "--workers", "2",
            "--no-access-log", "--loop", "uvloop", "--http", "httptools", PEER_DSN=self.dsn,
        )
        self.spawn(MADE / "venv/bin/python", HERE / "fastapi_worker.py", PEER_DSN=self.dsn)


class SkipLocked(Postgres):
    name = "skip-locked"
    title = "PostgreSQL SKIP LOCKED, batching client"

    def start_clients(self) -> None:
        self.spawn("node", HERE / "skip_locked.js", PEER_DSN=self.dsn, PEER_PORT=self.port)


class BullMq(Peer):
    name = "bullmq"
    title = "BullMQ on Redis, appendfsync always"

    def __init__(self, work: pathlib.Path) -> None:
        super().__init__(work)
        self.redis_port = free_port()

    def start(self) -> None:
        self.spawn(
            "redis-server", "--port", self.redis_port, "--bind", "127.0.0.1", "--appendonly", "yes", "--appendfsync", "always",
            "--save", "", "--maxmemory-policy", "noeviction", "--dir", self.work,
        )
        environment = {"PEER_PORT": self.port, "PEER_REDIS_PORT": self.redis_port}
        self.spawn("node", HERE / "bullmq.js", "api", **environment)
        self.spawn("node", HERE / "bullmq.js", "worker", **environment)
        wait("BullMQ's start", self.is_ready)

    def is_drained(self) -> bool:
        code, text = call(f"{self.url}/counts")
        counts = json.loads(text) if code == 200 else {"wait": 1}
        return all(count == 0 for state, count in counts.items() if state != "completed")


class Restate(Peer):
    name = "restate"
    title = "Restate"
    path = "/Order/%s/run/send"

    def __init__(self, work: pathlib.Path) -> None:
        super().__init__(work)
        self.admin, self.node, self.service = free_port(), free_port(), free_port()

    def start(self) -> None:
        server = next((MADE / "node_modules/@restatedev").glob("restate-server-*/bin/restate-server"))
        address = "127.0.0.1:{}".format
        self.spawn(
            server, "--node-name", "n1", "--base-dir", self.work / "data", "--bind-ip", "127.0.0.1",
            RESTATE_INGRESS__BIND_ADDRESS=address(self.port), RESTATE_ADMIN__BIND_ADDRESS=address(self.admin),
            RESTATE_BIND_ADDRESS=address(self.node), RESTATE_ADVERTISED_ADDRESS=f"http://{address(self.node)}/",
            # The default, said out loud: its log is synced.
            RESTATE_BIFROST__LOCAL__ROCKSDB_DISABLE_WAL_FSYNC="false", RESTATE_DISABLE_TELEMETRY="true",
        )
        self.spawn("node", HERE / "restate.js", PEER_PORT=self.service, NODE_ENV="production")
        wait("Restate's start", lambda: call(f"http://127.0.0.1:{self.admin}/health")[0] == 200)
        registered = lambda: call(f"http://127.0.0.1:{self.admin}/deployments", {"uri": f"http://127.0.0.1:{self.service}", "force": True})[0] in (200, 201)
        wait("Restate's registration", registered)
        wait("Restate's ingress", lambda: call(f"{self.url}/restate/health")[0] == 200)

    def query(self, text: str) -> list:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.admin}/query", json.dumps({"query": text}).encode(),
            {"content-type": "application/json", "accept": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())["rows"]

    def is_drained(self) -> bool:
        return not self.query("SELECT id FROM sys_invocation WHERE status <> 'completed' LIMIT 1")

    def has(self, order: str) -> bool:
        code, text = call(f"{self.url}/Order/{order}/get", {}, timeout=30)
        return code == 200 and json.loads(text) != "ABSENT"


PEERS = [Comanda, FastApi, SkipLocked, BullMq, Restate]


def load(peer: Peer, seconds: int, run: str) -> dict:
    environment = {**os.environ, "PEER_PATH": peer.path, "PEER_RUN": run}
    said = subprocess.run(
        ["wrk", "-t2", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "30s", "-s", HERE / "submit.lua", peer.url],
        env=environment, capture_output=True, text=True, check=True,
    ).stdout
    line = next(line for line in said.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


def survives(peer: Peer) -> int:
    """Submits, kills everything meanwhile, starts it again. Answers how many were acknowledged; each must be there."""
    acknowledged: list[str] = []
    stop = threading.Event()

    def client(number: int) -> None:
        count = 0
        while not stop.is_set():
            order = f"kill-{number}-{count}"
            count += 1
            body = {"orderId": order, "customerId": "c", "items": [{"sku": "tea", "quantity": 2, "price": "3.50"}]}
            if call(peer.url + peer.path.replace("%s", order), body)[0] in (200, 202):
                acknowledged.append(order)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client, number) for number in range(8)]
        time.sleep(2)
        peer.kill()
        stop.set()
        for one in clients:
            one.result()
    peer.start()
    lost = [order for order in acknowledged if not peer.has(order)]
    if lost or not acknowledged:
        raise SystemExit(f"{peer.title} lost {len(lost)} of {len(acknowledged)} acknowledged orders: {lost[:5]}")
    return len(acknowledged)


def measure(kind: type[Peer], seconds: int) -> dict:
    with tempfile.TemporaryDirectory(dir=os.environ.get("PEER_DIRECTORY")) as work:
        # The user that PostgreSQL runs as must be able to enter it.
        os.chmod(work, 0o755)
        peer = kind(pathlib.Path(work))
        try:
            peer.start()
            load(peer, max(2, seconds // 5), "warm")
            wait("the end of the warm-up's orders", peer.is_drained, 600)
            began = time.monotonic()
            found = load(peer, seconds, "run")
            wait("the end of all orders", peer.is_drained, 1200)
            lasted = time.monotonic() - began
            accepted = found["requests"] - found["failed"]
            kept = survives(peer)
        finally:
            peer.kill()
    return {
        "name": kind.name, "title": kind.title, "accepted_per_second": accepted / (found["micros"] / 1e6), "p50_ms": found["p50"] / 1000,
        "p99_ms": found["p99"] / 1000, "completed_per_second": accepted / lasted, "failed": found["failed"], "kept_after_kill": kept,
    }


def table(results: list[dict]) -> str:
    lines = [
        "| | accepted/s | p50 ms | p99 ms | completed/s | failed | kept after `kill -9` |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for one in results:
        lines.append(
            f"| {one['title']} | {one['accepted_per_second']:,.0f} | {one['p50_ms']:.1f} | {one['p99_ms']:.1f} "
            f"| {one['completed_per_second']:,.0f} | {one['failed']} | all {one['kept_after_kill']:,} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    arguments = sys.argv[1:]
    seconds = int(arguments.pop(0)) if arguments and arguments[0].isdigit() else 20
    known = {kind.name: kind for kind in PEERS}
    chosen = [known[name] for name in arguments] if arguments else PEERS
    results = []
    for kind in chosen:
        print(f"{kind.title} …", file=sys.stderr, flush=True)
        results.append(measure(kind, seconds))
    to = HERE / "results"
    to.mkdir(exist_ok=True)
    (to / "peers.json").write_text(json.dumps(results, indent=2) + "\n")
    (to / "peers.md").write_text(table(results))
    print(table(results), end="")


main()
