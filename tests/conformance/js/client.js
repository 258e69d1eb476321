"use strict";
// A gRPC client of Node.js that does what it is told: one line of JSON a call on its input, one an outcome on its
// output. Bytes are base64. See tests/conformance/js_face.py.

const readline = require("node:readline");
const grpc = require("@grpc/grpc-js");

const [address, optionsText] = process.argv.slice(2);
const options = JSON.parse(optionsText);

const channelOptions = {
  "grpc.max_receive_message_length": -1,
  "grpc.max_send_message_length": -1,
  "grpc.use_local_subchannel_pool": 1,
  "grpc.initial_reconnect_backoff_ms": 50,
  "grpc.max_reconnect_backoff_ms": 200,
};
if (options.keepalive_s) {
  channelOptions["grpc.keepalive_time_ms"] = options.keepalive_s * 1000;
  channelOptions["grpc.keepalive_timeout_ms"] = 5000;
  channelOptions["grpc.keepalive_permit_without_calls"] = 1;
}
if (options.gzip) {
  channelOptions["grpc.default_compression_algorithm"] = 2;
}
const client = new grpc.Client(address, grpc.credentials.createInsecure(), channelOptions);

const asItIs = (data) => data;
const bytes = (text) => Buffer.from(text, "base64");
const text = (data) => data.toString("base64");

function metadataOf(job) {
  const metadata = new grpc.Metadata({ waitForReady: job.wait_for_ready });
  for (const [key, value, isBytes] of job.metadata) {
    metadata.add(key, isBytes ? bytes(value) : value);
  }
  return metadata;
}

function pairs(metadata) {
  const found = [];
  for (const key of Object.keys(metadata.getMap())) {
    for (const value of metadata.get(key)) {
      found.push(Buffer.isBuffer(value) ? [key, text(value), true] : [key, value, false]);
    }
  }
  return found;
}

/** Makes one call; tells its replies and its status. */
function start(job, requests, done) {
  const deadline = job.timeout_s === null ? Infinity : Date.now() + job.timeout_s * 1000;
  const how = { deadline };
  const metadata = metadataOf(job);
  const replies = [];
  const one = (error, reply) => {
    if (!error) replies.push(reply);
  };
  let call;
  switch (job.kind) {
    case "unary":
      call = client.makeUnaryRequest(job.path, asItIs, asItIs, requests[0], metadata, how, one);
      break;
    case "server":
      call = client.makeServerStreamRequest(job.path, asItIs, asItIs, requests[0], metadata, how);
      break;
    case "client":
      call = client.makeClientStreamRequest(job.path, asItIs, asItIs, metadata, how, one);
      break;
    default:
      call = client.makeBidiStreamRequest(job.path, asItIs, asItIs, metadata, how);
  }
  if (job.kind === "server" || job.kind === "both") {
    call.on("data", (reply) => {
      replies.push(reply);
      if (replies.length === job.cancel_after) call.cancel();
      if (replies.length === 1 && job.pause_s) {
        call.pause();
        setTimeout(() => call.resume(), job.pause_s * 1000);
      }
    });
    call.on("error", () => {}); // the status tells
  }
  // The status of a unary call may come before its callback.
  call.on("status", (status) => setImmediate(() => done(status, replies)));
  if (job.cancel_after_s !== null) setTimeout(() => call.cancel(), job.cancel_after_s * 1000);
  if (job.kind === "client" || job.kind === "both") {
    call.on("error", () => {});
    send(call, requests, 0);
  }
}

/** Writes no faster than the stream takes it. */
function send(call, requests, from) {
  for (let at = from; at < requests.length; at++) {
    if (!call.write(requests[at])) {
      call.once("drain", () => send(call, requests, at + 1));
      return;
    }
  }
  call.end();
}

function answer(id, outcome) {
  process.stdout.write(JSON.stringify({ id, ...outcome }) + "\n");
}

function many(job, requests) {
  const codes = {};
  let begun = 0;
  let ended = 0;
  const next = () => {
    if (begun === job.count) return;
    begun++;
    start(job, requests, (status) => {
      codes[status.code] = (codes[status.code] || 0) + 1;
      ended++;
      if (ended === job.count) answer(job.id, { codes });
      else next();
    });
  };
  for (let i = 0; i < job.at_once; i++) next();
}

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const job = JSON.parse(line);
  const requests = job.requests.map(bytes);
  if (job.count) {
    many(job, requests);
    return;
  }
  start(job, requests, (status, replies) =>
    answer(job.id, {
      code: status.code,
      message: status.details,
      replies: replies.map(text),
      trailing: pairs(status.metadata),
    }),
  );
}).on("close", () => {
  client.close();
  process.exit(0);
});
