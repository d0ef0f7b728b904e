// How long tile planning takes and what it holds. Build first: npm run build. Run: node bench/tile-plan.mjs
import { and, causal, createMaskInputs, planTiles, sameSegment, slidingWindow } from "../dist/mask/index.js";
import { packedSegments, restartingPositions } from "./packed.mjs";

const LENGTH = 131072;
const SEGMENTS = 64;
const TILE = 64;
const RUNS = 9;

function heldBytes() {
  globalThis.gc?.();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

function measure(name, mask, inputs, options) {
  const before = heldBytes();
  const rssBefore = process.memoryUsage().rss;
  const start = performance.now();
  let plan = planTiles(mask, inputs, options);
  const first = performance.now() - start;
  const { heapUsed, arrayBuffers } = process.memoryUsage(); // garbage included: an upper bound of what planning took
  const taken = heapUsed + arrayBuffers - before;
  const rss = process.memoryUsage().rss - rssBefore;
  const times = [];
  for (let run = 0; run < RUNS; run++) {
    const begin = performance.now();
    plan = planTiles(mask, inputs, options);
    times.push(performance.now() - begin);
  }
  times.sort((a, b) => a - b);
  const held = plan.columns.byteLength + plan.rowPointers.byteLength + plan.firstPartial.byteLength;
  const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  console.log(
    `${name.padEnd(52)} first ${first.toFixed(1)} ms, median ${times[RUNS >> 1].toFixed(1)} ms, ` +
      `${plan.columns.length} tiles, plan ${mib(held)}, taken ${mib(taken)}, rss +${mib(rss)}`,
  );
}

const segments = packedSegments(LENGTH, SEGMENTS);
const sizes = { queryLength: LENGTH, keyLength: LENGTH };
const packed = createMaskInputs({ ...sizes, querySegments: segments, keySegments: segments });
const positions = restartingPositions(segments);
const restarting = { ...packed, queryPositions: positions, keyPositions: positions };
const tile = { rowTile: TILE, keyTile: TILE };
console.log(`${LENGTH} x ${LENGTH}, ${SEGMENTS} segments, tile ${TILE} x ${TILE}, node ${process.version}`);
measure("causal + window 1024 + segments", and(causal(), slidingWindow(1024), sameSegment()), packed, tile);
measure(
  "the same, positions restart per document",
  and(causal(), slidingWindow(1024), sameSegment()),
  restarting,
  tile,
);
measure("causal + segments", and(causal(), sameSegment()), packed, tile);
measure("causal + window 4096, 8 heads packed", slidingWindow(4096), { ...packed, heads: 8 }, { ...tile, group: 8 });
measure("causal", causal(), createMaskInputs(sizes), tile);
