// Bootstrap: what runs inside a Node.js environment: import the handler, then answer one invocation after another.
//
// It speaks the frames of broker/runtime/inside/frames.py over descriptor 3 and writes markers into 4, the output pipe.
// Every cold start pays for what is imported here.

import fs from "node:fs";
import Module, { createRequire } from "node:module";
import net from "node:net";
import path from "node:path";
import { Writable } from "node:stream";
import { fileURLToPath, pathToFileURL } from "node:url";
import { format } from "node:util";

const CONTROL = 3;
const OUTPUT = 4;
const LONGEST_MESSAGE = 64 << 10;
const NOTICEABLE = 100; // microseconds; shorter attempts take no memory worth measuring
const LOOK_EVERY = 1000; // milliseconds between looks at what else was imported

const UNKNOWN = "ended itself, since after an error that nobody caught its state is unknown";

const told = JSON.parse(process.argv[2]);
process.argv = [process.argv[0], told.handler];

// The two lines to the worker.

const pause = new Int32Array(new SharedArrayBuffer(4));

function writeAll(descriptor, data) {
  for (let at = 0; at < data.length; ) {
    try {
      at += fs.writeSync(descriptor, data, at);
    } catch (error) {
      if (error.code !== "EAGAIN") throw error;
      Atomics.wait(pause, 0, 0, 1);
    }
  }
}

function mark(name) {
  writeAll(OUTPUT, Buffer.from(`\0${told.token} ${name}\n`));
}

function send(header, body = Buffer.alloc(0)) {
  const head = Buffer.from(`0000${header}\n`);
  head.writeUInt32BE(head.length - 4 + body.length, 0);
  writeAll(CONTROL, body.length > 4096 ? head : Buffer.concat([head, body]));
  if (body.length > 4096) writeAll(CONTROL, body);
}

function print(text) {
  mark("");
  writeAll(OUTPUT, Buffer.from(text));
}

// What the handler finds around it. Node would write to a full pipe later, behind the marker; these write at once.

for (const [name, descriptor] of [
  ["stdout", 1],
  ["stderr", 2],
]) {
  const stream = new Writable({
    decodeStrings: true,
    write(chunk, _, done) {
      try {
        writeAll(descriptor, chunk);
        done();
      } catch (error) {
        done(error.code === "EBADF" ? null : error); // the handler has closed it
      }
    },
  });
  Object.defineProperty(stream, "fd", { value: descriptor });
  Object.defineProperty(process, name, { configurable: true, enumerable: true, get: () => stream });
}

for (const [name, level] of [
  ["debug", "DEBUG"],
  ["info", "INFO"],
  ["warn", "WARNING"],
  ["error", "ERROR"],
]) {
  const plain = console[name];
  console[name] = (...values) => plain.call(console, `[${level}]\t%s`, format(...values));
}

const variables = process.env;
const always = {
  functionName: variables.AWS_LAMBDA_FUNCTION_NAME,
  functionVersion: variables.AWS_LAMBDA_FUNCTION_VERSION,
  invokedFunctionArn: told.arn,
  memoryLimitInMB: variables.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
  logGroupName: variables.AWS_LAMBDA_LOG_GROUP_NAME,
  logStreamName: variables.AWS_LAMBDA_LOG_STREAM_NAME,
};

// https://docs.aws.amazon.com/lambda/latest/dg/nodejs-context.html, and `attempt`.
class Context {
  constructor(request, deadline, done) {
    Object.assign(this, always);
    this.awsRequestId = request.id;
    this.attempt = request.attempt;
    this.callbackWaitsForEmptyEventLoop = true;
    this.clientContext = request.client;
    this.identity = undefined;
    this.getRemainingTimeInMillis = () => Math.max(0, Math.floor(deadline - performance.now()));
    this.done = done;
    this.succeed = (result) => done(null, result);
    this.fail = (error) => done(error ?? new Error("handled"));
  }
}

// AWS X-Ray's form, made of the invocation's id, and never sampled; as in broker/runtime/inside/standard.py.
function traceId(id) {
  return `Root=1-${id.slice(0, 8)}-${id.slice(8)};Parent=${id.slice(-16)};Sampled=0`;
}

// Failures, as AWS Lambda tells them.

const OWN = import.meta.url;

function frames(error) {
  const stack = typeof error.stack === "string" ? error.stack : "";
  return stack.split("\n").filter((line) => /^ {4}at /.test(line) && !line.includes(OWN) && !/\(?node:/.test(line));
}

function describe(error) {
  try {
    if (!(error instanceof Error) && typeof error?.message !== "string") {
      const message = format(typeof error === "string" ? "%s" : "%j", error).slice(0, LONGEST_MESSAGE);
      return { errorType: error === null ? "null" : typeof error, errorMessage: message, stackTrace: [] };
    }
    const message = String(error.message).slice(0, LONGEST_MESSAGE);
    return { errorType: String(error.name || "Error"), errorMessage: message, stackTrace: frames(error) };
  } catch {
    return { errorType: "Error", errorMessage: "<an error that cannot be printed>", stackTrace: [] };
  }
}

function printed(error, failure) {
  let text = `[ERROR] ${failure.errorType}: ${failure.errorMessage}\n`;
  text += failure.stackTrace.map((line) => `${line}\n`).join("");
  for (let cause = error?.cause, depth = 0; cause instanceof Error && depth < 8; cause = cause.cause, depth++) {
    text += `Caused by ${cause.name}: ${cause.message}\n${frames(cause).map((line) => `${line}\n`).join("")}`;
  }
  return text;
}

function refuse(kind, message, error) {
  loading = false;
  const failure = error === undefined ? null : describe(error);
  print(failure ? printed(error, failure) : `[ERROR] ${kind}: ${message}\n`);
  mark("init");
  send(JSON.stringify({ init_error: kind, message }), failure ? Buffer.from(JSON.stringify(failure)) : undefined);
  process.exit(1);
}

// From the handler's name to the function itself, each way to fail told apart.

const PLACE = /^((?:file:\/\/)?\/.*):(\d+)$/m; // of a mistake in the text, above the line that has it
const MOST_CHECKED = 20;
const EXTENSIONS = [".js", ".mjs", ".cjs"];

function locate() {
  const { handler, root } = told;
  const base = handler.slice(handler.lastIndexOf("/") + 1);
  const cut = handler.includes(":") ? handler.lastIndexOf(":") : handler.length - base.length + base.indexOf(".");
  const [place, name] = [handler.slice(0, cut), handler.slice(cut + 1)];
  if (cut <= 0 || !base.slice(1) || !name) {
    refuse("HandlerMissing", `expected file.mjs:name or file.name, got '${handler}'`);
  }
  for (const ending of handler.includes(":") ? [""] : EXTENSIONS) {
    const file = path.resolve(root, place + ending);
    if (fs.statSync(file, { throwIfNoEntry: false })?.isFile()) return [file, name, place + ending];
  }
  return refuse("HandlerMissing", `there is no file ${place}`);
}

async function load([file, name, place]) {
  let module;
  try {
    module = await importFile(file);
  } catch (error) {
    refuse("InitFailed", explain(error, place, file), error);
  }
  let value = module;
  for (const [depth, part] of name.split(".").entries()) {
    if (value?.[part] === undefined) {
      if (depth === 0 && value?.default?.[part] !== undefined) value = value.default;
      else {
        const own = Object.keys(Object(module)).filter((key) => typeof module[key] === "function").slice(0, 8);
        refuse("HandlerMissing", `${place} has no '${name}'${own.length ? `; it exports ${own.join(", ")}` : ""}`);
      }
    }
    value = value[part];
  }
  if (typeof value !== "function") {
    refuse("InitFailed", `'${name}' in ${place} cannot be called: it is of type ${typeof value}`);
  }
  if (value.length > 3) {
    const takes = `but '${name}' in ${place} takes ${value.length} arguments`;
    refuse("InitFailed", `a handler takes (event, context, callback), ${takes}`);
  }
  return value;
}

async function importFile(file) {
  if (!file.endsWith(".mjs")) {
    try {
      return createRequire(file)(file);
    } catch (error) {
      if (error?.code !== "ERR_REQUIRE_ESM" && error?.code !== "ERR_REQUIRE_ASYNC_MODULE") throw error;
    }
  }
  return import(pathToFileURL(file));
}

// Node keeps to itself in which file and line the text of an ES module is wrong; asked to check the files it says so.
function checked(entry) {
  const { spawnSync } = createRequire(OWN)("node:child_process"); // milliseconds, for what only few need
  const ahead = [entry];
  for (let at = 0; at < ahead.length && at < MOST_CHECKED; at++) {
    const { status, stderr } = spawnSync(process.execPath, ["--check", ahead[at]], { encoding: "utf8" });
    if (status) return stderr;
    ahead.push(...imported(ahead[at]).filter((file) => !ahead.includes(file)));
  }
  return "";
}

function explain(error, place, file) {
  const traced = String(error?.stack ?? "");
  const stack = error instanceof SyntaxError && file && !PLACE.test(traced) ? checked(file) : traced;
  const relative = (name) => path.relative(told.root, name.startsWith("file:") ? fileURLToPath(name) : name);
  const where = PLACE.exec(stack);
  if (error instanceof SyntaxError && where) {
    return `${error.name} in ${relative(where[1])}, line ${where[2]}: ${error.message}`;
  }
  const theirs = frames(error ?? {})
    .map((line) => /\(?((?:file:\/\/)?\/[^()]*):(\d+):\d+\)?$/.exec(line))
    .find((match) => match && relative(match[1]).split(path.sep)[0] !== "..");
  const at = theirs ? ` (${relative(theirs[1])}, line ${theirs[2]})` : "";
  const failure = describe(error);
  return `importing ${place} failed: ${failure.errorType}: ${failure.errorMessage.split("\n")[0]}${at}`;
}

// Which files of the project are imported, so that the worker notices when one of them changes.

const seen = new Set();
let looked = BigInt(Date.now()) * 1000000n;

function newFiles(entry) {
  const found = [];
  const now = BigInt(Date.now()) * 1000000n;
  const ahead = entry ? [entry] : [];
  for (const file of Object.keys(Module._cache)) if (isTheirs(file)) ahead.push(file);
  while (ahead.length) {
    const file = ahead.pop();
    if (seen.has(file)) continue;
    seen.add(file);
    const stat = fs.statSync(file, { bigint: true, throwIfNoEntry: false });
    // Written while it was imported: nobody knows which of both was read, so it counts as changed.
    found.push(`[${JSON.stringify(file)},${!stat || stat.mtimeNs >= looked ? 0 : stat.mtimeNs},${stat?.size ?? 0}]`);
    if (stat) ahead.push(...imported(file));
  }
  looked = now;
  return found;
}

// Node keeps no list of ES modules that one could read, so their text is searched for what they import by path.
function imported(file) {
  const text = fs.readFileSync(file, "utf8");
  const found = text.matchAll(/(?:\bfrom|\bimport)\s*\(?\s*["'](\.{1,2}\/[^"'\n]+|\/[^"'\n]+)["']/g);
  return [...found]
    .map(([, name]) => path.resolve(path.dirname(file), name))
    .filter((name) => isTheirs(name) && fs.statSync(name, { throwIfNoEntry: false })?.isFile());
}

function isTheirs(file) {
  return file.startsWith(told.root + path.sep) && !file.includes(`${path.sep}node_modules${path.sep}`);
}

// Invocations, one after another.

let handler;
let socket;
let current = null;
let hungUp = false;
let looping = false;
let loading = true;
let peak = 0;
let unmeasured = 0;
let processorTold = 0;
let lastLook = 0;
const queue = [];

function invoke([header, event]) {
  const started = performance.now();
  const request = JSON.parse(header);
  const mine = { id: request.id, started, answered: null, settled: false };
  current = mine;
  socket.unref(); // so that Node says when nothing else is left to wait for
  const done = (error, result) => {
    if (mine.settled || mine.answered) return;
    mine.answered = error === null || error === undefined ? { result } : { error };
    if (!mine.context.callbackWaitsForEmptyEventLoop) answer(mine);
  };
  const succeed = (result) => {
    mine.answered = { result };
    answer(mine);
  };
  const fail = (error) => {
    mine.answered = { error };
    answer(mine);
  };
  variables._X_AMZN_TRACE_ID = traceId(request.id);
  mine.context = new Context(request, started + request.timeout_ms, done);
  try {
    const value = handler(JSON.parse(event), mine.context, done);
    if (typeof value?.then === "function") {
      mine.promised = true;
      value.then(succeed, fail);
    } else if (handler.length < 3 && isPlain(value) && !mine.answered) succeed(value);
  } catch (error) {
    fail(error);
  }
}

// AWS Lambda ignores what a handler returns that is no promise; a result is taken for one, and a timer is not.
function isPlain(value) {
  if (value === undefined || typeof value === "function") return false;
  if (value === null || typeof value !== "object") return true;
  return [Object.prototype, Array.prototype, null].includes(Object.getPrototypeOf(value));
}

function answer(mine) {
  if (mine.settled || current !== mine) return;
  mine.settled = true;
  if ("error" in mine.answered) settle(mine, failed(mine.answered.error));
  else settle(mine, marshal(mine.answered.result));
}

// Microseconds that have not been told yet; those of children are told when the environment ends.
function processorTime() {
  unmeasured = 0;
  const { user, system } = process.cpuUsage();
  const before = processorTold;
  processorTold = user + system;
  return processorTold - before;
}

function settle(mine, [ok, body, end]) {
  mark(mine.id);
  const spent = Math.round((performance.now() - mine.started) * 1000);
  if (spent > NOTICEABLE || !peak) peak = process.resourceUsage().maxRSS * 1024;
  unmeasured += spent;
  const cpu = unmeasured > NOTICEABLE ? processorTime() : 0;
  let header = `{"id":"${mine.id}","ok":${ok},"us":${spent},"rss":${peak},"cpu":${cpu}`;
  header += end ? `,"end":true,"message":${JSON.stringify(end)}}` : "}";
  send(header, body);
  current = null;
  socket.ref();
  if (end) process.exit(0);
  if (performance.now() - lastLook > LOOK_EVERY) {
    lastLook = performance.now();
    const found = newFiles();
    if (found.length) send('{"files":true}', Buffer.from(`[${found}]`));
  }
  next();
}

function next() {
  if (looping) return; // it was called from in there: handlers that answer at once would fill the stack
  looping = true;
  while (!current && queue.length) invoke(queue.shift());
  looping = false;
  if (!current && hungUp) process.exit(0);
}

function failed(error, type) {
  const failure = describe(error);
  if (type) Object.assign(failure, { errorType: type });
  print(printed(error, failure));
  return [false, Buffer.from(JSON.stringify(failure))];
}

function marshal(result) {
  let body;
  try {
    body = Buffer.from(JSON.stringify(result) ?? "null");
  } catch (error) {
    return refused("Runtime.MarshalError", `the result is not JSON: ${error?.message}`);
  }
  if (body.length > told.max_result) {
    const message = `the result has ${body.length} bytes; the limit is ${told.max_result}`;
    return refused("Function.ResponseSizeTooLarge", message);
  }
  return [true, body];
}

function refused(errorType, errorMessage) {
  return [false, Buffer.from(JSON.stringify({ errorMessage, errorType, stackTrace: [] }))];
}

process.on("beforeExit", () => {
  if (loading) refuse("InitFailed", `${told.handler}: it awaits at its top what never comes`);
  if (!current) return;
  if (!current.answered && current.promised) {
    current.answered = { error: new Error("its promise was never settled, and nothing is left to wait for") };
    current.answered.error.name = "Runtime.NeverSettled";
  }
  current.answered ??= { result: null };
  looping = true;
  answer(current);
  looping = false;
  setImmediate(next); // not from here: Node would end once the loop is empty again
});

process.on("exit", (code) => {
  if (loading) refuse("InitFailed", `${told.handler}: importing it called process.exit(${code})`);
});

function crash(error, type) {
  if (loading) refuse("InitFailed", explain(error, told.handler), error);
  if (!current) {
    print(printed(error, describe(error)));
    send(JSON.stringify({ files: true, end: true, message: UNKNOWN }), Buffer.from("[]"));
    process.exit(1);
  }
  current.settled = true;
  settle(current, [...failed(error, type), UNKNOWN]);
}

process.on("uncaughtException", (error) => crash(error));
process.on("unhandledRejection", (error) => crash(error, "Runtime.UnhandledPromiseRejection"));

function receive() {
  let rest = Buffer.alloc(0);
  let missing = 0;
  let pieces = [];
  socket = new net.Socket({ fd: CONTROL, readable: true, writable: true, allowHalfOpen: true });
  socket.on("data", (data) => {
    pieces.push(data);
    missing -= data.length;
    if (missing > 0) return; // the rest of a large frame: to join it for every piece would take quadratic time
    rest = pieces.length > 1 ? Buffer.concat([rest, ...pieces]) : rest.length ? Buffer.concat([rest, data]) : data;
    pieces = [];
    let at = 0;
    while (rest.length - at >= 4) {
      const end = at + 4 + rest.readUInt32BE(at);
      if (end > rest.length) {
        missing = end - rest.length;
        break;
      }
      const cut = rest.indexOf(10, at + 4);
      queue.push([rest.toString("utf8", at + 4, cut), rest.toString("utf8", cut + 1, end)]);
      at = end;
    }
    rest = rest.subarray(at);
    next();
  });
  socket.on("end", () => {
    hungUp = true;
    next();
  });
  socket.on("error", () => process.exit(1));
}

const place = locate();
handler = await load(place);
mark("init");
loading = false;
const spent = Math.round((Number(process.hrtime.bigint()) / 1e9 - told.born) * 1e6);
send(`{"ready":true,"us":${spent}}`, Buffer.from(`[${newFiles(place[0])}]`));
receive();
