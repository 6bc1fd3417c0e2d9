// Verifies webhooks that are signed with Ed25519 by the Standard Webhooks specification, with Node's own cryptography, which
// knows nothing of Comanda. It reads JSON lines `{secret, headers, body}`, `secret` being a public key (`whpk_…`), and prints
// `true` or `false` for each.
"use strict";
const crypto = require("node:crypto");
const lines = require("node:readline").createInterface({ input: process.stdin });

function verify({ secret, headers, body }) {
  if (!secret.startsWith("whpk_")) return false;
  const x = Buffer.from(secret.slice("whpk_".length), "base64").toString("base64url");
  const key = crypto.createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
  const signed = Buffer.from(`${headers["webhook-id"]}.${headers["webhook-timestamp"]}.${body}`);
  const isRecent = Math.abs(Date.now() / 1000 - Number(headers["webhook-timestamp"])) < 300;
  const signatures = headers["webhook-signature"].split(" ").filter((one) => one.startsWith("v1a,"));
  return isRecent && signatures.some((one) => crypto.verify(null, signed, key, Buffer.from(one.slice(4), "base64")));
}

lines.on("line", (line) => console.log(verify(JSON.parse(line))));
