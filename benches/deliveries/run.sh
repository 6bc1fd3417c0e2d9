#!/usr/bin/env bash
# What deliveries and live streams cost: the figures of docs/performance.md.
#
#   1. deliveries/s of one subscription to a receiver that does almost nothing, next to what the same HTTP client does alone,
#      and how long an event takes from its commit to its receiver
#   2. what a commit costs with 0, 10 and 1,000 subscriptions: all of the same server, one after another, and 0 again
#   3. live streams held open on one node: memory for each, and how long an event takes to its stream
#
# The server, the receiver and the load share the machine. Usage:
#   cargo build --release --workspace --bins --examples
#   benches/deliveries/run.sh [BINARY, default target/release/comanda] [ORDERS, default 20000] [STREAMS, default 10000]
set -euo pipefail
cd "$(dirname "$0")/../.."
comanda=${1:-target/release/comanda}
orders=${2:-20000}
streams=${3:-10000}
load=$(dirname "$comanda")/examples/delivery_load
for program in "$comanda" "$load"; do
  [ -x "$program" ] || { echo "$program is missing: build it with the binary (see the head of this script)" >&2; exit 1; }
done
ulimit -n "$(ulimit -Hn)"
[ "$(ulimit -n)" -gt $((streams + 100)) ] || { echo "$streams streams need more open files than $(ulimit -n)" >&2; exit 1; }
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT
port=18090

serve() { # starts a server with nothing in it: $url, $pid
  port=$((port + 1))
  url=http://127.0.0.1:$port
  mkdir -p "$work/$port"
  printf '[deliveries]\nallow_private = true\n[limits]\nconnections_max = 100000\nstreams_max = 100000\n' >"$work/$port/comanda.toml"
  "$comanda" serve --listen "127.0.0.1:$port" --data "$work/$port/data" --config "$work/$port/comanda.toml" \
    --order-types benches/order-types 2>"$work/$port/log" &
  pid=$!
  until curl -sf "$url/readyz" >/dev/null 2>&1; do kill -0 $pid; sleep 0.1; done
}
submit() { # COUNT TYPE DATA: so many orders, in batches of 100
  local left=$1 order="{\"type\":\"$2\",\"data\":$3}"
  local batch; batch="[$(awk -v order="$order" 'BEGIN { for (n = 0; n < 100; n++) printf "%s%s", n ? "," : "", order }')]"
  while [ "$left" -gt 0 ]; do
    curl -sf "$url/v1/orders/batch" -H 'content-type: application/json' -d "$batch" >/dev/null
    left=$((left - 100))
  done
}
subscribe() { # BODY
  curl -sf "$url/v1/subscriptions" -H 'content-type: application/json' -d "$1" >/dev/null
}
rss_kb() { awk '/VmRSS/ {print $2}' "/proc/$pid/status"; }
receive() { # PORT COUNT FILE: starts a receiver and waits until it listens
  "$load" receive "$1" "$2" >"$3" &
  receiver=$!
  until grep -q ready "$3" 2>/dev/null; do kill -0 $receiver; sleep 0.05; done
}

echo "## 1. deliveries"
serve
submit "$orders" note '{"text":"a note of the usual length, about as long as an order"}'
for concurrency in 1 8 64; do
  receive 18080 "$orders" "$work/client"
  echo "the HTTP client alone, $concurrency at a time: $("$load" post http://127.0.0.1:18080/ $concurrency "$orders" 400)"
  wait $receiver
  receive 18080 "$orders" "$work/received"
  subscribe "{\"url\":\"http://127.0.0.1:18080/\",\"from\":\"oldest\",\"concurrency\":$concurrency,\"filter\":{\"events\":[\"comanda.order.accepted\"]}}"
  wait $receiver
  echo "one subscription, $concurrency at a time:      $(tail -n 1 "$work/received")"
  "$comanda" subscriptions list --url "$url" --output json | grep -o 'sub_[0-9a-f]*' | sort -u \
    | while read -r id; do "$comanda" subscriptions delete "$id" --url "$url" >/dev/null; done
done
echo "## from the commit to the receiver, at 200 orders/s"
receive 18080 $((orders / 10)) "$work/received"
subscribe '{"url":"http://127.0.0.1:18080/","concurrency":8,"filter":{"types":["note"],"events":["comanda.order.accepted"]}}'
"$comanda" bench --url "$url" --type note --no-check --connections 4 --rate 200 --duration "$((orders / 2000 + 2))s" >/dev/null
wait $receiver
tail -n 1 "$work/received"
kill $pid; wait $pid 2>/dev/null || true

echo
echo "## 2. what a commit costs with subscriptions that want something else"
serve
seconds=$((orders / 2000 + 1))
made=0
measure() { echo "$1 subscriptions:"; "$comanda" bench --url "$url" --type note --no-check --duration "${seconds}s" 2>/dev/null; }
measure 0
for count in 10 1000; do
  while [ $made -lt $((count < 990 ? count : 990)) ]; do
    subscribe '{"url":"http://127.0.0.1:9/","filter":{"types":["nothing"]}}'
    made=$((made + 1))
  done
  measure $made
done
curl -sf "$url/v1/subscriptions" | grep -o 'sub_[0-9a-f]*' | sort -u | while read -r id; do
  curl -sf -X DELETE "$url/v1/subscriptions/$id"
done
measure 0
kill $pid; wait $pid 2>/dev/null || true

echo
echo "## 3. $streams live streams"
for kind in "/v1/events?from=newest&customer=c-{n}" "/v1/events?from=newest&event=comanda.order.accepted"; do
  serve
  before=$(rss_kb)
  echo "$kind"
  "$load" streams "127.0.0.1:$port" "$kind" "$streams" "$streams" >"$work/streams" &
  streaming=$!
  until grep -q open "$work/streams" 2>/dev/null; do kill -0 $streaming; sleep 0.1; done
  echo "  memory: $(((($(rss_kb) - before)) * 1024 / streams)) bytes per stream"
  if [[ $kind == *accepted ]]; then
    # One event for every stream.
    curl -sf "$url/v1/orders" -H 'content-type: application/json' -d '{"type":"sale","data":{"amount":1,"currency":"EUR"}}' >/dev/null
    wait $streaming
    echo "  one order, told to all of them: $(tail -n 1 "$work/streams")"
  else
    # While nobody is concerned, orders cost what they cost without streams.
    "$comanda" bench --url "$url" --type note --no-check --duration "${seconds}s" 2>/dev/null
    kill $streaming; wait $streaming 2>/dev/null || true
  fi
  echo "  memory afterwards: $(((($(rss_kb) - before)) * 1024 / streams)) bytes per stream"
  kill $pid; wait $pid 2>/dev/null || true
done
