-- wrk's requests: one order each, with an id of its own. PEER_PATH is the path, with %s for the order's id.
local path = os.getenv("PEER_PATH")
local run = os.getenv("PEER_RUN")
local threads = 0

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

function init()
  count = 0
end

function request()
  count = count + 1
  local id = string.format("%s-%d-%d", run, number, count)
  local body = string.format(
    '{"orderId":"%s","customerId":"c-%d","items":[{"sku":"tea","quantity":2,"price":"3.50"}]}', id, count % 1000)
  return wrk.format("POST", (path:gsub("%%s", id)), {["content-type"] = "application/json"}, body)
end

function done(summary, latency)
  local failed = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format('RESULT {"requests":%d,"failed":%d,"micros":%d,"p50":%d,"p99":%d}\n',
    summary.requests, failed, summary.duration, latency:percentile(50), latency:percentile(99)))
end
