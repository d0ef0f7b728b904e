/**
 * A process that holds one contender and does as it is told: `prepare` work, `measure` a formulation of it, `drop` it.
 * Every contender has a process of its own, so that each runs on the Node version and flags that suit it best, none
 * fills another's heap, and all can take turns.
 */

const [, , contender, threads] = process.argv;

/** Time for warming up: at least this many calls and, unless a call is long, this many ms. */
const WARM_CALLS = 3;
const WARM_MS = 150;
/** One turn of a formulation: calls until so many ms have passed. */
const TURN_MS = 90;
const MAX_CALLS = 400;
const LONG_MS = 400;

const opened = open();
/** @type {Map<string, {before?: () => void, run: () => unknown, output?: () => Float32Array,
 *   notes?: () => unknown, dispose: () => unknown}>} */
const prepared = new Map();

async function open() {
  const module = await import(`./contenders/${contender}.mjs`);
  return module.open({ threads: Number(threads) });
}

async function timed({ before, run }) {
  before?.();
  const start = performance.now();
  await run();
  return performance.now() - start;
}

/** Runs until the time of a call has settled. */
async function warmUp(one) {
  let calls = 1;
  const first = await timed(one);
  if (first > LONG_MS) return first;
  let last = first;
  for (let spent = first; (calls < WARM_CALLS || spent < WARM_MS) && calls < MAX_CALLS; calls++) {
    last = await timed(one);
    spent += last;
  }
  return last;
}

const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];

async function turn(one) {
  const times = [];
  let spent = 0;
  do {
    const time = await timed(one);
    times.push(time);
    spent += time;
  } while (spent < TURN_MS && times.length < MAX_CALLS);
  // What others did meanwhile has emptied the caches: the first of several calls is not counted.
  return { min: Math.min(...times), median: median(times.length > 2 ? times.slice(1) : times) };
}

/** A limit is the best of its calls. */
async function best(one) {
  let shortest = Infinity;
  for (let calls = 0; calls < 12; calls++) shortest = Math.min(shortest, await timed(one));
  return { min: shortest, median: shortest };
}

let limits;
const COMMANDS = {
  open: async () => ({ version: (await opened).version, node: process.version }),
  prepare: async ({ work, skip }) => {
    const results = [];
    for (const { name, create } of (await opened).formulations(work)) {
      if (skip.includes(name)) continue;
      try {
        const one = await create();
        prepared.set(name, one);
        const time = await warmUp(one);
        results.push({ name, time, output: one.output && Float32Array.from(one.output()), notes: await one.notes?.() });
      } catch (error) {
        prepared.delete(name);
        results.push({ name, error: String(error?.message ?? error).slice(0, 300) });
      }
    }
    return results;
  },
  measure: ({ name }) => turn(prepared.get(name)),
  limits: async () => {
    limits ??= (await opened).limits();
    const peak = await best(limits.peak);
    const read = await best(limits.read);
    return { peak: limits.peak.flop / peak.min / 1e6, read: limits.read.bytes / read.min / 1e6 };
  },
  drop: async ({ names }) => {
    for (const name of names ?? [...prepared.keys()]) {
      await prepared.get(name)?.dispose();
      prepared.delete(name);
    }
    globalThis.gc?.();
  },
};

process.on("message", async ({ command, ...options }) => {
  try {
    process.send({ result: await COMMANDS[command](options) });
  } catch (error) {
    process.send({ error: String(error?.stack ?? error) });
  }
});
process.on("disconnect", () => process.exit());
