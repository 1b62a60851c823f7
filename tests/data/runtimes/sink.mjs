// Does what its event says: the same in each runtime, see tests/integration/test_runtimes.py.

import { execFileSync, spawn } from "node:child_process";

let count = 0;

class Trouble extends Error {
  name = "Trouble";
}

export async function handler(event, context) {
  count += 1;
  return what[event.do](event.with, context);
}

const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

const what = {
  echo: (given) => given,
  warm: () => count,
  fail: () => {
    throw new Trouble("no luck");
  },
  shout: (given) => {
    for (let number = 0; number < 3; number++) console.log("out", number, given);
    execFileSync("echo", ["child"], { stdio: "inherit" });
    process.stderr.write(`err ${given}\n`);
  },
  big: (given) => "x".repeat(given),
  tell: (given, context) => ({
    variables: Object.fromEntries(given.map((name) => [name, process.env[name] ?? null])),
    cwd: process.cwd(),
    fields: [context.awsRequestId, context.functionName, context.getRemainingTimeInMillis()],
  }),
  hang: async () => {
    spawn("sleep", ["60"]);
    spawn("sleep", ["60"], { detached: true });
    console.log("hanging");
    await sleep(60);
  },
  leave: (given) => process.exit(given),
  crash: async () => {
    process.kill(process.pid, "SIGSEGV");
    await sleep(5);
  },
  fill: async () => {
    const hoard = [];
    for (;;) {
      hoard.push(Buffer.alloc(8 << 20, hoard.length % 256));
      await sleep(0.01);
    }
  },
  nan: () => [NaN],
};
