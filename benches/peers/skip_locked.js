// A PostgreSQL queue with a batching client: all submissions that wait are one INSERT and one commit; the worker takes
// up to 500 orders with SKIP LOCKED, and commits each of their statuses as one statement.
const http = require("node:http");
const { Pool } = require("pg");

const pool = new Pool({ connectionString: process.env.PEER_DSN, max: 8 });
const WRITERS = 2;
const BATCH = 500;
let waiting = [];
let writing = 0;

const INSERT = `WITH made AS (
  INSERT INTO orders (id, status, data) SELECT id, 'RECEIVED', data FROM unnest($1::text[], $2::jsonb[]) AS new (id, data)
  RETURNING id
) INSERT INTO events (order_id, status) SELECT id, 'RECEIVED' FROM made`;
const TAKE = `WITH next AS (
  SELECT id FROM orders WHERE status = 'RECEIVED' ORDER BY seq LIMIT ${BATCH} FOR UPDATE SKIP LOCKED
), taken AS (
  UPDATE orders SET status = 'PROCESSING' WHERE id IN (SELECT id FROM next) RETURNING id
), told AS (
  INSERT INTO events (order_id, status) SELECT id, 'PROCESSING' FROM taken
) SELECT id FROM taken`;
const COMPLETE = `WITH done AS (
  UPDATE orders SET status = 'COMPLETED' WHERE id = ANY($1) RETURNING id
) INSERT INTO events (order_id, status) SELECT id, 'COMPLETED' FROM done`;

async function write() {
  if (writing >= WRITERS || waiting.length === 0) return;
  writing++;
  const batch = waiting.splice(0, BATCH);
  try {
    await pool.query({ name: "insert", text: INSERT, values: [batch.map((one) => one.id), batch.map((one) => one.body)] });
    for (const one of batch) one.answer(202, { orderId: one.id, status: "RECEIVED" });
  } catch (error) {
    for (const one of batch) one.answer(500, { error: String(error) });
  }
  writing--;
  write();
}

async function work() {
  for (;;) {
    try {
      const taken = await pool.query({ name: "take", text: TAKE });
      if (taken.rowCount > 0) {
        await pool.query({ name: "complete", text: COMPLETE, values: [taken.rows.map((row) => row.id)] });
      }
      if (taken.rowCount < BATCH) await new Promise((resolve) => setTimeout(resolve, 5));
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
}

pool.on("error", () => {});
http
  .createServer((request, response) => {
    const answer = (status, value) => {
      response.writeHead(status, { "content-type": "application/json" });
      response.end(JSON.stringify(value));
    };
    if (request.method === "GET") {
      const id = decodeURIComponent(request.url.slice("/orders/".length));
      pool.query("SELECT id, status FROM orders WHERE id = $1", [id]).then(
        (found) => (found.rowCount ? answer(200, found.rows[0]) : answer(404, {})),
        (error) => answer(500, { error: String(error) }),
      );
      return;
    }
    let body = "";
    request.on("data", (part) => (body += part));
    request.on("end", () => {
      waiting.push({ id: JSON.parse(body).orderId, body, answer });
      // What arrives in the same turn of the loop goes along.
      setImmediate(write);
    });
  })
  .listen(Number(process.env.PEER_PORT), "127.0.0.1");
work();
