"""Draws what measure.py has written to results/peers.json: rates and latencies, as SVG, and puts them with the table into
docs/performance.md, between its two marks. Started by run.sh, with the venv's Python, when all systems were measured.

Usage: plot.py [RESULTS, default results/peers.json beside this file] [DOCS, default docs/]
"""

import json
import pathlib
import sys

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

HERE = pathlib.Path(__file__).resolve().parent
BEGIN, END = "<!-- peers: written by benches/peers/plot.py -->", "<!-- end of peers -->"
# The same input gives the same file, so that a change of it is a change of the figures.
matplotlib.rcParams.update({"svg.hashsalt": "peers", "svg.fonttype": "none", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False})


def bars(results: list[dict], series: list[tuple[str, str, str]], axis: str, title: str, to: pathlib.Path) -> None:
    """Horizontal bars, one group for each system, longest first as they were measured."""
    figure, axes = pyplot.subplots(figsize=(8, 0.75 * len(results) + 1.4), layout="constrained")
    height = 0.8 / len(series)
    for index, (key, word, colour) in enumerate(series):
        places = [row + index * height for row in range(len(results))]
        drawn = axes.barh(places, [one[key] for one in results], height * 0.92, label=word, color=colour)
        axes.bar_label(drawn, fmt=lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.1f}", padding=3)
    axes.set_yticks([row + height * (len(series) - 1) / 2 for row in range(len(results))], [one["title"] for one in results])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel(axis)
    axes.set_title(title, loc="left")
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(to, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


def table(results: list[dict]) -> str:
    ours = next(one for one in results if one["name"] == "comanda")
    lines = [
        "| | accepted/s | completed/s | Comanda completes | p50 ms | p99 ms | kept after `kill -9` |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for one in results:
        ratio = ours["completed_per_second"] / one["completed_per_second"]
        lines.append(
            f"| {one['title']} | {one['accepted_per_second']:,.0f} | {one['completed_per_second']:,.0f} | {ratio:,.1f} × "
            f"| {one['p50_ms']:.1f} | {one['p99_ms']:.1f} | all {one['kept_after_kill']:,} |"
        )
    return "\n".join(lines)


def main() -> None:
    source = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results" / "peers.json"
    docs = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else HERE.parent.parent / "docs"
    results = json.loads(source.read_text())
    if results[0]["name"] != "comanda" or len(results) < 2:
        raise SystemExit("not drawn: Comanda and at least one peer must be in one run")
    bars(
        results, [("accepted_per_second", "accepted/s", "#2b6cb0"), ("completed_per_second", "completed/s", "#68a063")],
        "orders per second", "One order's full life, durable, 64 connections", docs / "peers-rates.svg",
    )
    bars(
        results, [("p50_ms", "p50", "#2b6cb0"), ("p99_ms", "p99", "#c05621")],
        "milliseconds until an order is accepted", "Latency of submits at that load", docs / "peers-latency.svg",
    )
    page = docs / "performance.md"
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{page} has no place for the figures: {BEGIN} … {END}")
    pictures = "![orders per second](peers-rates.svg)\n\n![latency of submits](peers-latency.svg)"
    page.write_text(f"{before}{BEGIN}\n\n{table(results)}\n\n{pictures}\n\n{END}{after}")


main()
