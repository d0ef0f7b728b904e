// How long a whole attention plan takes, bits of partial tiles and work items included, and what it holds.
// Build first: npm run build. Run: node --expose-gc bench/attention-plan.mjs
import { planAttention } from "../dist/attention/index.js";
import { causal, dilated, sameSegment, slidingWindow } from "../dist/mask/index.js";
import { packedSegments, restartingPositions } from "./packed.mjs";

const LENGTH = 131072;
const SEGMENTS = 64;
const RUNS = 7;
const WORKERS = 4;

function heldBytes() {
  globalThis.gc?.();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

function measure(name, request) {
  const before = heldBytes();
  const start = performance.now();
  let plan = planAttention(request, { workers: WORKERS });
  const first = performance.now() - start;
  const { heapUsed, arrayBuffers } = process.memoryUsage(); // garbage included: an upper bound of what planning took
  const taken = heapUsed + arrayBuffers - before;
  const times = [];
  for (let run = 0; run < RUNS; run++) {
    const begin = performance.now();
    plan = planAttention(request, { workers: WORKERS });
    times.push(performance.now() - begin);
  }
  times.sort((a, b) => a - b);
  const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  const { fullTiles, partialTiles, skipped } = plan.cost;
  console.log(
    `${name.padEnd(48)} first ${first.toFixed(1)} ms, median ${times[RUNS >> 1].toFixed(1)} ms, ` +
      `${fullTiles} full, ${partialTiles} partial, ${(100 * skipped).toFixed(2)} % skipped, ` +
      `plan ${mib(plan.bytes)}, taken ${mib(taken)}`,
  );
  return plan;
}

const shape = (heads, length) => ({ dtype: "f32", shape: [length, heads, 128] });
function request(mask, heads, kvHeads, more = {}) {
  return { q: shape(heads, LENGTH), k: shape(kvHeads, LENGTH), v: shape(kvHeads, LENGTH), mask, ...more };
}

const segments = packedSegments(LENGTH, SEGMENTS);
const packed = { querySegments: segments, keySegments: segments };
const positions = restartingPositions(segments);
const restarting = { ...packed, queryPositions: positions, keyPositions: positions };
const local = causal().and(slidingWindow(1024), sameSegment());
console.log(`${LENGTH} x ${LENGTH}, ${SEGMENTS} segments, ${WORKERS} workers, node ${process.version}`);
const plan = measure("causal + window 1024 + segments, 1 head", request(local, 1, 1, packed));
measure("the same, positions restart per document", request(local, 1, 1, restarting));
measure("the same, 32 heads over 8", request(local, 32, 8, restarting));
measure("causal + segments", request(causal().and(sameSegment()), 1, 1, packed));
measure("causal", request(causal(), 1, 1));
measure("dilated window 256 by 4", request(dilated(256, 4), 1, 1));
console.log(`\n${plan.explain()}`);
