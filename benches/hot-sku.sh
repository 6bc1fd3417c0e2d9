#!/usr/bin/env bash
# What one SKU costs that everyone wants: orders that hold and ship one unit, all of the same SKU, against the same orders over
# a thousand SKUs. Both alternate on fresh servers, because the machine itself is not the same from minute to minute.
#
# Usage: benches/hot-sku.sh [COMANDA, default target/release/comanda] [SECONDS, default 10]
set -euo pipefail
cd "$(dirname "$0")/.."
comanda=$(realpath "${1:-target/release/comanda}")
seconds=${2:-10}
port=18195
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT
url=http://127.0.0.1:$port

printf '%8s %10s %10s %10s %14s\n' "SKUs" "orders/s" "p50 ms" "p99 ms" "stock"
for skus in 1 1000 1 1000; do
  rm -rf "$work/data"
  "$comanda" serve --listen "127.0.0.1:$port" --data "$work/data" --order-types benches/order-types 2>"$work/serve.log" & server=$!
  until curl -sf "$url/readyz" >/dev/null 2>&1; do sleep 0.1; done
  python3 - "$port" "$skus" <<'PY'
import http.client, sys
client = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
for number in range(int(sys.argv[2])):
    client.request("POST", f"/v1/inventory/v-{number}/receive", '{"quantity": 4000000}', {"content-type": "application/json"})
    answer = client.getresponse()
    if answer.status >= 300:
        sys.exit(answer.read().decode())
    answer.read()
PY
  "$comanda" bench --url "$url" --type pick --connections 64 --duration "${seconds}s" --vary "/sku=$skus" --settle 300s \
    --output json > "$work/figures.json" 2>"$work/bench.log" || { cat "$work/bench.log" >&2; exit 1; }
  kill $server; wait $server 2>/dev/null || true
  verdict=$("$comanda" verify --data "$work/data" >/dev/null 2>&1 && echo sound || echo DAMAGED)
  python3 - "$work/figures.json" "$skus" "$verdict" <<'PY'
import json, sys
check = json.load(open(sys.argv[1]))["check"]
at = check["toFinalMicros"]
print(f"{sys.argv[2]:>8} {check['completedPerSecond']:>10} {at['p50'] / 1000:>10.1f} {at['p99'] / 1000:>10.1f} {sys.argv[3]:>14}")
PY
done
