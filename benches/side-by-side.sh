#!/usr/bin/env bash
# What one machine does, with and without storing, in one run: the figures of docs/performance.md.
#
# Both servers are the same binary on the same cores as the load. Absolute figures differ from machine to machine and
# from minute to minute; the ratios carry. Usage: benches/side-by-side.sh [SECONDS, default 10]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-10}
comanda=target/release/comanda
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT

serve() { # PORT ARGUMENTS…: starts a server and waits until it is ready
  local port=$1; shift
  "$comanda" serve --listen "127.0.0.1:$port" --data "$work/$port" --order-types benches/order-types "$@" \
    2>"$work/$port.log" &
  until curl -sf "http://127.0.0.1:$port/readyz" >/dev/null 2>&1; do sleep 0.1; done
}
bench() { # TITLE PORT ARGUMENTS…
  local title=$1 port=$2; shift 2
  echo "## $title"
  "$comanda" bench --url "http://127.0.0.1:$port" --duration "${seconds}s" "$@"
  echo
}
limit() { bench "the limit: answered without storing, 64 connections" 18081 --type note --no-check; }

serve 18081 --bench-no-store
for port in 18082 18083 18084 18085 18086; do serve $port; done
# A limit stands before and after each, because the machine itself is not the same from minute to minute.
limit
bench "note, 64 connections: accepted, nothing more" 18082 --type note --no-check
limit
bench "sale, 64 connections: two durable states" 18083 --type sale
limit
bench "laned, 64 connections: three durable states, in 1,000 lanes, each with its own Idempotency-Key" 18084 \
  --type laned --vary /customer=1000 --idempotency-keys
limit
bench "work-order, 64 connections: accepted, and an item in a status's queue" 18085 --type work-order --no-check
bench "note in batches of 100, 16 connections" 18086 --connections 16 --batch 100 --type note --no-check
bench "sale in batches of 100, 16 connections" 18086 --connections 16 --batch 100 --type sale
