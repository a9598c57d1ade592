// The receiver of a webhook's whole life, in JavaScript: Node's own server, and the verifier of npm `standardwebhooks`. What it
// prints and reads stands in `life.py`.
"use strict";

const http = require("node:http");
const readline = require("node:readline");
const { Webhook } = require("standardwebhooks");

const now = { secret: null, answer: 204 };
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

function receive(request, body) {
  let why = "";
  try {
    new Webhook(now.secret).verify(body, request.headers);
  } catch (error) {
    why = String(error);
  }
  const status = why === "" ? now.answer : 401;
  const signatures = (request.headers["webhook-signature"] ?? "").split(" ").filter((entry) => entry !== "");
  say({
    path: request.url,
    id: request.headers["webhook-id"],
    attempt: Number(request.headers["webhook-attempt"]),
    signatures: signatures.length,
    accepted: why === "",
    why,
    status,
  });
  return status;
}

const server = http.createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    response.statusCode = request.method === "POST" ? receive(request, Buffer.concat(chunks)) : 405;
    response.end();
  });
});
server.listen(0, "127.0.0.1", () => say(server.address().port));

const input = readline.createInterface({ input: process.stdin });
input.on("line", (line) => {
  const [what, value] = line.split(" ");
  now[what] = what === "answer" ? Number(value) : value;
  say({ done: line });
});
input.on("close", () => process.exit(0));
