"""What one order costs: syncs and bytes written, by strace, and instructions and allocations, by callgrind, of a real
server, for each shipped order type.

None of it depends on how fast the machine is or what else runs on it, so that a regression shows on any machine:
`cargo xtask cost` compares with cost.json and fails beyond the tolerance; `cargo xtask cost record` writes it anew. One
client submits one order after the other, so that no two share a sync that one alone would need. `work-order` waits after
it is accepted, all others are seen through.

Three things keep the figures steady:
- The client does nothing until the server rests (rest.py); only then it reads the order, once. Were it to ask before, the
  server would read the order for it twice or once, as chance has it.
- What the server spends while it is left alone for as long as the orders took is taken off. A time in which the server was
  stopped does not count.
- The server has as many threads on every machine. And all begin with the same empty store: what a commit or a reading
  costs in SQLite depends on how long its log is.

Instructions are those of the whole process outside the kernel, the reading of the order included; they depend on the
compiler, so that the figures are recorded anew when it changes.

Usage: cost.py BINARY [record]
"""

import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

from rest import Watched

HERE = pathlib.Path(__file__).resolve().parent
BASELINE = HERE / "cost.json"
ORDERS = 300
# Runs of one build, on a quiet machine and beside two others that took all they could get, differ by less than one in a
# hundred in syncs and bytes, and by up to three in instructions and allocations: in what order the threads come to run is
# nobody's to set.
TOLERANCE = {"syncs": 0.02, "bytes": 0.02, "instructions": 0.05, "allocations": 0.05}
# Fifty times slower than the machine, so fewer.
COUNTED_ORDERS = 100
# The threads of the runtime; else as many as the machine has processors.
STEADY = {"TOKIO_WORKER_THREADS": "2"}
ALLOCATORS = {"malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "memalign"}
BODIES = {
    "sale": {"amount": 12.50, "currency": "EUR"},
    "purchase": {"customerId": "c-1", "items": [{"sku": "tea", "quantity": 2}]},
    "work-order": {"descripcion": "Cambiar la correa", "fecha_entrega": "10/04/2026"},
    "shop-order": {
        "customer_name": "Ana Ruiz", "customer_email": "ana@example.com", "customer_address": "1 High Street",
        "items": [{"product_id": "p-1", "name": "Notebook", "quantity": 2, "price": 4.95}], "total_price": 9.90,
        "payment_method": "card",
    },
    "storefront-order": {"userId": "c-1", "products": [{"sku": "tea", "quantity": 1}]},
}


class Server:
    """The server under a tool that counts."""

    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = {}

    def __init__(self, binary: str, home: pathlib.Path) -> None:
        self.home = home
        self.process = subprocess.Popen(
            [*self.tool(), binary, "serve", "--listen", "127.0.0.1:0", *self.arguments],
            cwd=home, env={**os.environ, **self.environment}, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )
        for line in self.process.stderr:
            if "is ready at http://" in line:
                self.address = line.split("is ready at http://")[1].split(";")[0].strip()
                break
        else:
            raise SystemExit("the server did not start")
        # Far more than any answer takes, so that it outlasts a time in which everything is stopped.
        self.client = http.client.HTTPConnection(self.address, timeout=600)

    def pid(self) -> int:
        """The server's own."""
        return self.process.pid

    def call(self, method: str, path: str, body: object = None) -> dict:
        text = None if body is None else json.dumps(body)
        headers = {"content-type": "application/json"} if text else {}
        try:
            self.client.request(method, path, text, headers)
            answer = self.client.getresponse()
        except (BrokenPipeError, ConnectionResetError):
            # The server closes a connection that was idle for long, as when everything was stopped.
            self.client.close()
            self.client.request(method, path, text, headers)
            answer = self.client.getresponse()
        told = json.loads(answer.read())
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {told}")
        return told

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait()


class Traced(Server):
    """Under strace, which sees its syncs and the writes to its files."""

    environment = STEADY
    orders = ORDERS

    def pid(self) -> int:
        # The only child of strace.
        return int(pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text())

    def tool(self) -> list[str]:
        # Only these calls stop at strace, and `-y` names the file that each is about.
        calls = "trace=fsync,fdatasync,write,pwrite64,pwritev,writev"
        return ["strace", "-f", "-y", "--seccomp-bpf", "-e", calls, "-e", "abbrev=all", "-s", "0", "-o", str(self.home / "trace")]

    def spent(self) -> dict[str, int]:
        """Syncs and bytes written to the data directory since the start."""
        syncs = written = 0
        for line in (self.home / "trace").read_text().splitlines():
            if "/comanda-data/" not in line:
                continue
            if "sync(" in line:
                syncs += 1
            elif "write" in line and (answer := line.rsplit("= ", 1)[-1].strip()).isdigit():
                written += int(answer)
        return {"syncs": syncs, "bytes": written}


class Counted(Server):
    """Under callgrind, which counts its instructions and its calls of the allocator."""

    environment = STEADY
    orders = COUNTED_ORDERS

    def tool(self) -> list[str]:
        self.dumps = 0
        self.total = {"instructions": 0, "allocations": 0}
        return ["valgrind", "--tool=callgrind", "--quiet", f"--callgrind-out-file={self.home}/calls"]

    def dump(self) -> tuple[int, dict[str, tuple[int, int]]]:
        """Instructions since the dump before, and of each function how often it was called and what these calls took, with
        all that they called."""
        # It writes the dump before it answers.
        subprocess.run(["callgrind_control", "--dump", str(self.process.pid)], check=True, capture_output=True)
        self.dumps += 1
        total = 0
        names: dict[str, str] = {}
        calls: dict[str, tuple[int, int]] = {}
        called = ""
        count = 0
        for line in (self.home / f"calls.{self.dumps}").read_text(errors="replace").splitlines():
            # A function's name stands where its number is met first.
            if line.startswith(("fn=", "cfn=")):
                number, _, name = line.split("=", 1)[1].partition(" ")
                names.setdefault(number, name)
                called = re.sub(r"'\d+$", "", names[number])
            elif line.startswith("calls="):
                count = int(line.split("=")[1].split()[0])
            elif count:
                # The line behind a call is what it took.
                before = calls.get(called, (0, 0))
                calls[called] = (before[0] + count, before[1] + int(line.split()[1]))
                count = 0
            elif line.startswith("totals:"):
                total += int(line.split()[1])
        return total, calls

    def spent(self) -> dict[str, int]:
        """Instructions and allocations since the start."""
        instructions, calls = self.dump()
        self.total["instructions"] += instructions
        self.total["allocations"] += sum(calls.get(name, (0, 0))[0] for name in ALLOCATORS)
        return dict(self.total)


def submit(server: Server, watched: Watched, order_type: str, count: int) -> None:
    """One order after the other, each seen to its rest and read."""
    body = {"type": order_type, "data": BODIES[order_type]}
    if order_type == "work-order":
        body["status"] = "recibida"
    for _ in range(count):
        order = server.call("POST", "/v1/orders", body)
        watched.until_rest()
        # It waits only if something is still to come, such as a retry.
        server.call("GET", f"/v1/orders/{order['id']}?wait=30")
    watched.until_rest()


def measure(tool: type[Server], binary: str, order_type: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        server = tool(binary, pathlib.Path(directory))
        try:
            watched = Watched(server.pid())
            server.call("POST", "/v1/customers", {"id": "c-1", "name": "Ana"})
            server.call("POST", "/v1/inventory/tea/receive", {"quantity": 10 * tool.orders, "price": "1.50", "currency": "EUR"})
            # The first orders write what later ones only read: types, names, pages of new tables.
            submit(server, watched, order_type, 20)
            start, before = watched.awake_seconds, server.spent()
            submit(server, watched, order_type, tool.orders)
            took, after = watched.awake_seconds - start, server.spent()
            watched.pass_by(took)
            alone = server.spent()
        finally:
            server.stop()
    return {what: round((after[what] - before[what] - (alone[what] - after[what])) / tool.orders, 2) for what in after}


def dearer(measured: dict[str, dict[str, float]], recorded: dict[str, dict[str, float]]) -> list[str]:
    """What an order costs beyond the tolerance."""
    return [
        f"{order_type}: {what} were {recorded[order_type][what]} per order and are {cost[what]}"
        for order_type, cost in measured.items()
        for what, tolerance in TOLERANCE.items()
        if cost[what] > recorded[order_type][what] * (1 + tolerance)
    ]


def main() -> None:
    binary = str(pathlib.Path(sys.argv[1]).resolve())
    measured = {
        order_type: {**measure(Traced, binary, order_type), **measure(Counted, binary, order_type)} for order_type in BODIES
    }
    print(f"{'per order':<20}{'syncs':>8}{'bytes written':>16}{'instructions':>16}{'allocations':>14}")
    for order_type, cost in measured.items():
        print(
            f"{order_type:<20}{cost['syncs']:>8}{cost['bytes']:>16,.0f}{cost['instructions']:>16,.0f}{cost['allocations']:>14,.0f}"
        )
    if sys.argv[2:] == ["record"]:
        BASELINE.write_text(json.dumps(measured, indent=2) + "\n")
        return
    if worse := dearer(measured, json.loads(BASELINE.read_text())):
        raise SystemExit("an order costs more than it did:\n  " + "\n  ".join(worse))


if __name__ == "__main__":
    main()
