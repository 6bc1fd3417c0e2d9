// Restate: a workflow by the order's id records the three statuses in its state. The submission is Restate's own durable
// `send`. The SDK needs Promise.withResolvers, which Node 20 lacks.
Promise.withResolvers ??= function () {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
};
const restate = require("@restatedev/restate-sdk");

const order = restate.workflow({
  name: "Order",
  handlers: {
    run: async (context, data) => {
      context.set("data", data);
      context.set("status", "RECEIVED");
      await context.run("processing", () => "PROCESSING");
      context.set("status", "PROCESSING");
      await context.run("completed", () => "COMPLETED");
      context.set("status", "COMPLETED");
      return "COMPLETED";
    },
    get: async (context) => (await context.get("status")) ?? "ABSENT",
  },
});
restate.serve({ services: [order], port: Number(process.env.PEER_PORT) });
