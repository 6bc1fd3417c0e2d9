// Payments, in Node: once per key, found by key, refused after their undo.
//
//     PORT=9102 SECRET=whsec_... node payments.js
//
// The card `lost` is charged and the first answer never sent: the step's question finds the payment.
'use strict';
const crypto = require('node:crypto');
const http = require('node:http');

const SECRET = Buffer.from(process.env.SECRET.replace(/^whsec_/, ''), 'base64');
const TOLERANCE_SECONDS = 300;
const BODY_BYTES_MAX = 64 * 1024;
const payments = new Map(); // key -> {id, amount, state}

// Standard Webhooks: an HMAC-SHA256 of id, time and body; an old one may be a replay.
function isSigned(headers, body) {
  const time = Number(headers['webhook-timestamp']);
  if (!(Math.abs(Date.now() / 1000 - time) <= TOLERANCE_SECONDS)) return false;
  const mac = crypto.createHmac('sha256', SECRET);
  mac.update(`${headers['webhook-id']}.${headers['webhook-timestamp']}.`).update(body);
  const expected = Buffer.from(`v1,${mac.digest('base64')}`);
  return (headers['webhook-signature'] ?? '').split(' ').some((one) => {
    const given = Buffer.from(one);
    return given.length === expected.length && crypto.timingSafeEqual(given, expected);
  });
}

function pay(key, { amount, card }) {
  const before = payments.get(key);
  if (before) return before.state === 'voided' ? [409, { reason: 'undone before' }] : [200, before];
  if (card === 'empty') return [422, { reason: 'the card is empty' }];
  const payment = { id: `pay-${payments.size + 1}`, amount, state: 'paid' };
  payments.set(key, payment);
  return card === 'lost' ? [0] : [201, payment];
}

function voided(undoes) {
  const payment = payments.get(undoes) ?? { id: null, amount: null };
  // Also if nothing was paid: the payment may still be on its way, and must be refused then.
  payments.set(undoes, { ...payment, state: 'voided' });
  return [200, {}];
}

http.createServer((request, response) => {
  const chunks = [];
  let bytes = 0;
  request.on('data', (chunk) => {
    bytes += chunk.length;
    if (bytes > BODY_BYTES_MAX) request.destroy();
    else chunks.push(chunk);
  });
  request.on('end', () => {
    const answer = (status, body) => {
      if (status === 0) return; // Charged, and nobody is told.
      response.writeHead(status, { 'content-type': 'application/json' });
      response.end(JSON.stringify(body));
    };
    const { method, url, headers } = request;
    if (method === 'GET' && url === '/book') return answer(200, [...payments.values()]);
    const body = Buffer.concat(chunks);
    if (!isSigned(headers, body)) return answer(401, { reason: 'not signed by who should' });
    const key = headers['idempotency-key'];
    if (method === 'POST' && url === '/payments') return answer(...pay(key, JSON.parse(body)));
    if (method === 'GET' && url === '/payments') {
      return payments.has(key) ? answer(...pay(key, {})) : answer(404, {});
    }
    if (method === 'POST' && url === '/voids') return answer(...voided(headers['comanda-undoes']));
    return answer(404, {});
  });
}).listen(Number(process.env.PORT), '127.0.0.1');
