"""Where the time goes from socket to disk and back: one order that is accepted and nothing more (`note`), from a lone client.

Two views of the same way. *Time* is what lies between system calls of a real server, seen by `perf` from outside (which
needs root): half of the orders took less, and a tenth. *Instructions*, by callgrind, split what happens between them; they
are the same on every machine, as those in cost.json are.

Usage: stages.py BINARY [write]     write: puts the table into docs/performance.md, between its two marks
"""

import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile

from cost import Counted, Server

HERE = pathlib.Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "performance.md"
BEGIN, END = "<!-- stages: written by benches/stages.py -->", "<!-- end of stages -->"
ORDERS = 1000
CALLS = ("recvfrom", "futex", "fdatasync", "writev", "sendto")
TYPES = ("--order-types", str(HERE / "order-types"))
EVENT = re.compile(r"^\s*(?P<thread>.+?)\s+(?P<tid>\d+)\s+(?P<at>[\d.]+):\s+syscalls:sys_(?P<edge>enter|exit)_(?P<call>\w+):\s?(?P<rest>.*)$")


def note(server: Server) -> None:
    server.call("POST", "/v1/orders", {"type": "note", "data": {"text": "x" * 200}})


class Plain(Server):
    """As it is."""

    arguments = TYPES

    def tool(self) -> list[str]:
        return []


class CountedNotes(Counted):
    arguments = TYPES


def times(binary: str) -> list[list[float]]:
    """For each order, when it came to each point of its way, in microseconds."""
    with tempfile.TemporaryDirectory() as directory:
        home = pathlib.Path(directory)
        server = Plain(binary, home)
        try:
            for _ in range(100):
                note(server)
            events = ",".join(f"syscalls:sys_{edge}_{call}" for call in CALLS for edge in ("enter", "exit"))
            record = subprocess.Popen(
                ["perf", "record", "-q", "-m", "4M", "-o", home / "trace", "-e", events, "-p", str(server.process.pid)],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            # It begins to record some time after its start; orders before that are seen in part and left out.
            for _ in range(ORDERS):
                note(server)
            record.send_signal(signal.SIGINT)
            told = record.communicate()[0]
        finally:
            server.stop()
        if not (home / "trace").exists():
            raise SystemExit(f"perf could not look at the server; it needs root: {told}")
        script = subprocess.run(
            ["perf", "script", "--ns", "-F", "comm,tid,time,event,trace", "-i", home / "trace"],
            check=True, capture_output=True, text=True,
        ).stdout
    return list(ways(script))


def ways(script: str):
    """Follows each request through the calls: read, staged, taken by the writer, synced, answered."""
    way: list[float] = []
    reader = ""
    for line in script.splitlines():
        found = EVENT.match(line)
        if not found:
            continue
        at, writes = float(found["at"]) * 1e6, found["thread"] == "store-write"
        edge, call, rest = found["edge"], found["call"], found["rest"]
        wakes = edge == "enter" and call == "futex" and "op: 0x00000081" in rest
        if edge == "exit" and call == "recvfrom" and not rest.startswith("0xffff") and rest.strip() != "0x0":
            way, reader = [at], found["tid"]
        elif len(way) == 1 and wakes and found["tid"] == reader:
            way.append(at)
        elif len(way) == 2 and writes and edge == "exit" and call == "futex":
            way.append(at)
        elif len(way) in (3, 4) and writes and call == "fdatasync":
            way.append(at)
        elif len(way) == 5 and writes and wakes:
            way.append(at)
        elif len(way) == 6 and edge == "enter" and call in ("writev", "sendto"):
            way.append(at)
        elif len(way) == 7 and edge == "exit" and call in ("writev", "sendto"):
            yield [*way, at]
            way = []


# What is split: each function's instructions, with all that it calls, for one order. None is called by another of its line,
# except where it is taken off below.
CONNECTION = "comanda_http::Server::run::{{closure}}::{{closure}}"
PARSE = ("comanda_http::body::parse", "comanda_model::json::Json::value")
VALIDATE = "comanda_order_type::definition::Definition::validate"
DECIDE = "comanda_model::decision::accept::accept"
SUBMIT = "comanda_engine::intake::<impl comanda_engine::service::Service>::submit"
WRITER = "comanda_store_sqlite::writer::Writer::transact"
SQLITE = "sqlite3_step"
TELL = "comanda_store_sqlite::writer::Writer::answer"
RESPOND = "comanda_http::orders::<impl comanda_http::App>::order_response"


def instructions(binary: str) -> list[tuple[str, float]]:
    """For each part of the way, what it takes for one order."""
    with tempfile.TemporaryDirectory() as directory:
        server = CountedNotes(binary, pathlib.Path(directory))
        try:
            for _ in range(100):
                note(server)
            server.dump()
            for _ in range(ORDERS):
                note(server)
            total, calls = server.dump()
        finally:
            server.stop()

    def of(name: str) -> float:
        if name not in calls:
            raise SystemExit(f"`{name}` was not seen; if it has another name now, stages.py must know")
        return calls[name][1] / ORDERS

    body, value = map(of, PARSE)
    connection, submit, writer, sqlite, tell, respond = map(of, (CONNECTION, SUBMIT, WRITER, SQLITE, TELL, RESPOND))
    validate, decide = of(VALIDATE), of(DECIDE)
    return [
        ("HTTP: read, route, check who asks; head of the answer", connection - body - submit - respond),
        ("parse the body and its data", body + value),
        ("validate the data against the type's schema", validate),
        ("decide what becomes of it", decide),
        ("make the commit and stage it", submit - value - validate - decide),
        ("encode rows and checksums, bind them", writer - sqlite),
        ("SQLite", sqlite),
        ("tell who waits", tell),
        ("the order as the answer's body", respond),
        ("all else: waking and switching of threads, what runs beside", total / ORDERS - connection - writer - tell),
    ]


SPANS = [
    "read, parse, validate, decide, stage", "wait for the writer", "encode, SQLite, write to the log", "sync",
    "publish, wake who waits", "make the answer", "write it to the socket",
]


def table(binary: str) -> str:
    seen = times(binary)
    if len(seen) < ORDERS / 2:
        raise SystemExit(f"only {len(seen)} of {ORDERS} orders were followed to their end")
    lines = [
        f"| time of one order alone, µs ({len(seen)} followed) | half took less | a tenth took less |", "|---|--:|--:|",
    ]
    spans = [[way[index + 1] - way[index] for way in seen] for index in range(len(SPANS))]
    for name, span in [*zip(SPANS, spans, strict=True), ("**all of it**", [way[-1] - way[0] for way in seen])]:
        lines.append(f"| {name} | {statistics.median(span):,.0f} | {statistics.quantiles(span, n=10)[0]:,.0f} |")
    counted = instructions(binary)
    lines += ["", "| instructions of one order | thousands | of all |", "|---|--:|--:|"]
    whole = sum(count for _, count in counted)
    for name, count in [*counted, ("**all of it**", whole)]:
        lines.append(f"| {name} | {count / 1000:.1f} | {100 * count / whole:.0f} % |")
    return "\n".join(lines)


def main() -> None:
    binary = str(pathlib.Path(sys.argv[1]).resolve())
    made = table(binary)
    print(made)
    if sys.argv[2:] != ["write"]:
        return
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{PAGE} has no place for the figures: {BEGIN} … {END}")
    PAGE.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{after}")


if __name__ == "__main__":
    main()
