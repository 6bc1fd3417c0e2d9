#!/usr/bin/env bash
# Comanda and its peers in one run: the same full life of an order, the same load, the same durability. Prints a table,
# and writes it to benches/peers/results/. With all of them in the run, docs/performance.md gets the table and the plots.
# README.md says what is compared, and how each is set up.
#
# PEER_COMANDA names a program that is built already; without it, it is built.
#
# Usage: benches/peers/run.sh [SECONDS, default 20] [NAME…, default all: comanda fastapi skip-locked bullmq restate]
set -euo pipefail
cd "$(dirname "$0")/../.."
made=target/peers
mkdir -p "$made"
for program in wrk redis-server node npm python3 psql; do
  command -v "$program" >/dev/null || { echo "$program is needed (apt: wrk redis-server nodejs npm python3-venv postgresql)" >&2; exit 1; }
done
# Without names it is all of them.
whole=yes
for argument in "$@"; do [[ $argument =~ ^[0-9]+$ ]] || whole=; done
if [ -z "${PEER_COMANDA:-}" ] && { [ -n "$whole" ] || [[ " $* " == *" comanda "* ]]; }; then cargo build --release --locked -p comanda; fi
if [ ! -x "$made/venv/bin/uvicorn" ] || ! "$made/venv/bin/python" -c 'import matplotlib' 2>/dev/null; then
  python3 -m venv "$made/venv"
  "$made/venv/bin/pip" install -q fastapi==0.121.0 'uvicorn[standard]==0.38.0' asyncpg==0.30.0 matplotlib==3.10.7
fi
if [ ! -d "$made/node_modules/@restatedev/restate-server" ]; then
  npm install --ignore-scripts --prefix "$made" --no-audit --no-fund --silent \
    bullmq@5.81.5 pg@8.23.1 @restatedev/restate-sdk@1.17.2 @restatedev/restate-server@1.7.12
fi
python3 benches/peers/measure.py "$@"
if [ -n "$whole" ]; then "$made/venv/bin/python" benches/peers/plot.py; fi
