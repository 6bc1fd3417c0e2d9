#!/usr/bin/env bash
# The storefront order's full life, from its acceptance to `delivered`, with customers, payments and shipments over HTTP: orders/s and
# p99, how both fall as the services slow, and how far it stays from what an HTTP client alone can do.
#
# For each delay of the services: (1) a client alone makes the same kind of call, with as many connections as Comanda makes calls to one
# target at a time; divided by the calls of one order, that is the limit. (2) Orders come at that limit: what is completed is the
# capacity. (3) Orders come at 70 % of it: from acceptance to the end, that is p99. Every order is checked to be there and final.
#
# Usage: benches/storefront/run.sh [COMANDA, default target/release/comanda] [SECONDS, default 10] [DELAYS_MS, default "0 10 50 200"]
set -euo pipefail
cd "$(dirname "$0")/../.."
comanda=$(realpath "${1:-target/release/comanda}")
seconds=${2:-10}
delays=${3:-0 10 50 200}
service_port=18190
port=18191
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT
url=http://127.0.0.1:$port
services=http://127.0.0.1:$service_port

# The shipped type, except that nobody has to say that the parcel has arrived.
mkdir "$work/types"
cp order-types/storefront-order.schema.json "$work/types/"
sed -e 's/^name = .*/name = "storefront-life"/' -e '/^require = /d' -e '/^notify = /d' \
  -e '/^\[statuses.processing\]/a next = "delivered"' order-types/storefront-order.toml > "$work/types/storefront-life.toml"
cat > "$work/comanda.toml" <<TOML
[customers]
find = "GET $services/customers/{{ with.customer }}"
[payments]
authorize = "POST $services/payments"
capture = "POST $services/payments/{{ with.payment }}/capture"
void = "POST $services/payments/{{ with.payment }}/void"
void_by_key = "POST $services/payments/by-key"
refund = "POST $services/payments/{{ with.payment }}/refund"
find = "GET $services/payments?key={{ with.key }}"
[shipments]
create = "POST $services/shipments"
cancel = "POST $services/shipments/{{ with.shipment }}/cancel"
cancel_by_key = "POST $services/shipments/by-key"
find = "GET $services/shipments?key={{ with.key }}"
TOML

until_up() { until curl -sf "$1" >/dev/null 2>&1; do sleep 0.1; done; }
field() { python3 -c 'import json, sys; value = json.load(sys.stdin)
for name in sys.argv[1].split("."): value = value[name]
print(value)' "$1"; }
calls() { curl -sf "$services/calls" | field count; }
orders() { # RATE: submits, waits until all are final, and answers with the figures as JSON
  "$comanda" bench --url "$url" --type storefront-life --connections 64 --duration "${seconds}s" --rate "$1" \
    --settle 300s --output json 2>"$work/bench.log" || { cat "$work/bench.log" >&2; exit 1; }
}

printf '%10s %14s %14s %10s %12s %12s %14s\n' "delay ms" "client calls/s" "limit orders/s" "orders/s" "of the limit" "p99 ms" "at orders/s"
for delay in $delays; do
  python3 benches/storefront/service.py $service_port "$delay" & service=$!
  until_up "$services/calls"
  "$comanda" serve --listen "127.0.0.1:$port" --config "$work/comanda.toml" --data "$work/data-$delay" --order-types "$work/types" \
    2>"$work/serve.log" & server=$!
  until_up "$url/readyz"
  curl -sf "$url/v1/inventory/A-1/receive" -H 'content-type: application/json' \
    -d '{"quantity": 4000000, "price": "14.90", "currency": "EUR"}' >/dev/null
  alone=$("$comanda" bench --url "$services" --type call --connections 64 --duration "${seconds}s" --no-check --output json 2>/dev/null \
    | field acceptedPerSecond)
  before=$(calls)
  first=$("$comanda" submit storefront-life --url "$url" --wait=60 --output json - <<< '{"userId":"u-1","products":[{"sku":"A-1","quantity":1}]}')
  [ "$(field status <<< "$first")" = delivered ] || { echo "the first order was not delivered: $first" >&2; exit 1; }
  per_order=$(($(calls) - before))
  limit=$((alone / per_order > 0 ? alone / per_order : 1))
  capacity=$(orders "$limit" | field check.completedPerSecond)
  rate=$((capacity * 7 / 10 > 0 ? capacity * 7 / 10 : 1))
  p99=$(orders "$rate" | field check.toFinalMicros.p99)
  printf '%10s %14s %14s %10s %11s%% %12s %14s\n' "$delay" "$alone" "$limit" "$capacity" "$((capacity * 100 / limit))" \
    "$((p99 / 1000))" "$rate"
  kill $server $service; wait $server $service 2>/dev/null || true
done
echo "One order makes $per_order calls. A service that takes D ms allows at most 64 / D × 1000 calls/s, 64 being calls.per_target_max."
