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
  "$comanda" serve --listen "127.0.0.1:$port" --data "$work/$port" --order-types "$work/none" "$@" 2>"$work/$port.log" &
  until curl -sf "http://127.0.0.1:$port/readyz" >/dev/null 2>&1; do sleep 0.1; done
}
bench() { # TITLE PORT ARGUMENTS…
  local title=$1 port=$2; shift 2
  echo "## $title"
  "$comanda" bench --url "http://127.0.0.1:$port" --duration "${seconds}s" "$@"
  echo
}

serve 18081 --bench-no-store
serve 18082
serve 18083
serve 18084
serve 18085
bench "answered without storing, 64 connections (the limit)" 18081 --connections 64 --type sale --no-check
bench "sale, 64 connections, stored" 18082 --connections 64 --type sale
bench "answered without storing again, 64 connections" 18081 --connections 64 --type sale --no-check
bench "purchase, 64 connections (full life: three durable states)" 18083 --connections 64 --type purchase
bench "work-order, 64 connections (accepted, then it waits)" 18085 --connections 64 --type work-order --no-check
bench "sale in batches of 100, 8 connections" 18084 --connections 8 --batch 100 --type sale
