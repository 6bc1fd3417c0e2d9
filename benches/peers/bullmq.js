// BullMQ on Redis. The job is the order: added (RECEIVED), its progress recorded (PROCESSING), completed. Redis syncs
// its append-only file before it answers. ioredis sends the commands of one turn together (autopipelining).
// Run with `api` or `worker`, so that each has a core if there are two.
const http = require("node:http");
const { Queue, Worker } = require("bullmq");
const Redis = require("ioredis");

const options = { port: Number(process.env.PEER_REDIS_PORT), maxRetriesPerRequest: null };
if (process.argv[2] === "worker") {
  const worker = new Worker(
    "orders",
    async (job) => {
      await job.updateProgress({ status: "PROCESSING" });
      return { status: "COMPLETED" };
    },
    { connection: new Redis(options), concurrency: 64 },
  );
  worker.on("error", () => {});
} else {
  const connection = new Redis({ ...options, enableAutoPipelining: true });
  connection.on("error", () => {});
  const queue = new Queue("orders", { connection });
  queue.on("error", () => {});
  http
    .createServer((request, response) => {
      const answer = (status, value) => {
        response.writeHead(status, { "content-type": "application/json" });
        response.end(JSON.stringify(value));
      };
      const failed = (error) => answer(500, { error: String(error) });
      if (request.url === "/counts") {
        queue.getJobCounts("wait", "active", "completed", "delayed", "prioritized").then((counts) => answer(200, counts), failed);
      } else if (request.method === "GET") {
        const id = decodeURIComponent(request.url.slice("/orders/".length));
        queue.getJob(id).then((job) => (job ? answer(200, { id }) : answer(404, {})), failed);
      } else {
        let body = "";
        request.on("data", (part) => (body += part));
        request.on("end", () => {
          const data = JSON.parse(body);
          queue.add("order", data, { jobId: data.orderId }).then(() => answer(202, { orderId: data.orderId, status: "RECEIVED" }), failed);
        });
      }
    })
    .listen(Number(process.env.PEER_PORT), "127.0.0.1");
}
