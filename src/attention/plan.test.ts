import { describe, expect, it } from "vitest";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { values } from "../../test/support/values.ts";
import { causal, chunked, custom, lengths, sameSegment, slidingWindow, table } from "../mask/index.ts";
import { tensor } from "../tensor.ts";
import { type Capabilities, type KernelName, REFERENCE_CAPABILITIES } from "./capabilities.ts";
import { type AttentionPlan, type PlanOptions, type PlanRequest, planAttention } from "./plan.ts";
import { quantizeKv } from "./quantize.ts";
import { runPlan } from "./tile-loop.ts";
import { validateAttentionPlan } from "./validate-plan.ts";

const shape = (...extents: number[]) => ({ dtype: "f32", shape: extents }) as const;

/** Tq, Tk, H, Hk; depth 3. */
function sized(
  Tq: number,
  Tk: number,
  H = 1,
  Hk = 1,
): { q: PlanRequest["q"]; k: PlanRequest["q"]; v: PlanRequest["q"] } {
  return { q: shape(Tq, H, 3), k: shape(Tk, Hk, 3), v: shape(Tk, Hk, 3) };
}

const paged = {
  layout: "paged",
  keys: values([40, 5, 2, 3], 1),
  values: values([40, 5, 2, 3], 2),
  positions: Int32Array.from({ length: 190 }, (_, n) => n),
  segments: new Int32Array(190),
  pageTable: tensor(
    "i32",
    [1, 38],
    Int32Array.from({ length: 38 }, (_, n) => 39 - n),
  ),
} as const;

describe("planAttention", () => {
  it("chooses the kernel by the documented table", () => {
    const kernel = (request: PlanRequest, options?: PlanOptions) => {
      const plan = planAttention(request, options);
      return `${plan.kernel}: ${plan.reason}`;
    };
    expect(kernel(sized(300, 64))).toBe("dense: 64 keys fit one tile");
    expect(kernel(sized(17, 65))).toBe("tiled: 17 rows and 65 keys");
    expect(kernel(sized(16, 65))).toBe("decode: 16 rows");
    expect(kernel(sized(4, 65, 10, 2))).toBe("tiled: 20 rows and 65 keys");
    expect(kernel(sized(1, 900, 32, 8))).toBe("decode: 4 rows");
    const ragged = { ...sized(1, 900), mask: lengths(), lengths: Int32Array.of(899) };
    expect(kernel(ragged)).toBe("ragged: 1 rows and sequences of different lengths");
    expect(kernel({ ...ragged, lengths: Int32Array.of(900) })).toBe("decode: 1 rows");
    expect(kernel({ q: shape(1, 4, 3), kv: paged, queryPositions: Int32Array.of(189) })).toBe(
      "paged: keys are in pages",
    );
    expect(kernel(sized(1, 900), { kernel: "tiled" })).toBe("tiled: asked for");
  });

  it("packs eight rows of a partial tile into a byte per key, lowest bit first", () => {
    // One row tile of 11 rows, keys 0 to 6; row i sits at position 10 + i, key j at j; window of 12: i + 10 − j < 12.
    const plan = planAttention(
      {
        ...sized(11, 7),
        mask: slidingWindow({ left: 11, right: 0 }),
        queryPositions: Int32Array.from({ length: 11 }, (_, i) => 10 + i),
        keyPositions: Int32Array.from({ length: 7 }, (_, j) => j),
      },
      { kernel: "tiled", tile: { rows: 11, keys: 7 } },
    );
    expect([plan.bits.rowBlocks, plan.bits.bytesPerTile]).toEqual([2, 14]);
    expect([...plan.bits.offsets]).toEqual([0]);
    // key j is seen by rows 0 to j + 1
    expect([...plan.bits.data.subarray(0, 7)]).toEqual([0b11, 0b111, 0b1111, 0b11111, 0b111111, 0b1111111, 255]);
    expect([...plan.bits.data.subarray(7, 14)]).toEqual([0, 0, 0, 0, 0, 0, 0]);
  });

  it("keeps equal tiles once: the diagonal of a causal mask", () => {
    const plan = planAttention({ ...sized(64 * 9, 64 * 9), mask: causal() });
    expect([plan.cost.fullTiles, plan.cost.partialTiles, plan.cost.emptyTiles]).toEqual([36, 9, 36]);
    expect([...plan.bits.offsets]).toEqual(Array(9).fill(0));
    expect(plan.bits.data.length).toBe(64 * 8);
    expect(plan.bits.data[64 * 7 + 63]).toBe(0b10000000); // the last key is seen by the last row alone
  });

  it("drops tiles that are empty in truth and takes the bits off those that are full in truth", () => {
    // Interval analysis does not know that q − q is 0: it takes keys 0 to 59 for partial, those from 60 on for full.
    const mask = custom(({ qPosition, kvPosition }) => {
      const zero = qPosition.sub(qPosition);
      return kvPosition.ge(60).or(kvPosition.lt(40).and(zero.eq(0)), zero.ne(0));
    });
    const plan = planAttention({ ...sized(20, 80), mask }, { kernel: "tiled", tile: { rows: 10, keys: 20 } });
    expect([...plan.tiles.columns]).toEqual([0, 1, 3, 0, 1, 3]);
    expect([...plan.tiles.firstPartial]).toEqual([3, 6]);
    expect(plan.bits.offsets.length).toBe(0);
    expect(plan.cost.visiblePairs).toBe(20 * 60);
  });

  it("counts pairs, tiles and operations", () => {
    const { cost } = planAttention({ ...sized(70, 130, 6, 2), mask: causal() });
    const visible = 6 * Array.from({ length: 70 }, (_, i) => 61 + i).reduce((sum, n) => sum + n, 0);
    expect(cost.pairs).toBe(6 * 70 * 130);
    expect(cost.visiblePairs).toBe(visible);
    expect(cost.computedPairs).toBeGreaterThanOrEqual(visible);
    expect(cost.flops).toBe(2 * cost.computedPairs * 6);
    expect(cost.skipped).toBe(1 - cost.computedPairs / cost.pairs);
    expect(cost.fullTiles + cost.partialTiles + cost.emptyTiles).toBe(2 * Math.ceil((70 * 3) / 64) * 3);
  });

  it("splits the keys of one row tile over workers and lists what must be merged", () => {
    const { work, merges } = planAttention(sized(1, 64 * 40, 8, 2), { workers: 4 });
    expect(work.costs.length).toBe(4);
    expect(Math.max(...work.costs) / Math.min(...work.costs)).toBeLessThan(1.2);
    expect(merges.starts.length).toBe(2);
    expect(merges.count).toBe(work.row.length);
    expect([...merges.slots]).toEqual([...work.row.keys()]);
  });

  it("takes whole pages as tiles, and of large pages equal parts", () => {
    const keyTile = (page: number) => {
      const kv = {
        ...paged,
        keys: values([200, page, 1, 3], 1),
        values: values([200, page, 1, 3], 2),
        pageTable: tensor(
          "i32",
          [1, 190],
          Int32Array.from({ length: 190 }, (_, n) => n),
        ),
      };
      return planAttention({ q: shape(1, 1, 3), kv, queryPositions: Int32Array.of(189) }).tiles.keyTile;
    };
    expect([1, 5, 16, 48, 64, 96, 128, 131].map(keyTile)).toEqual([64, 60, 64, 48, 64, 48, 64, 131]);
  });

  it("is frozen, holds exactly the bytes of its arrays, and reads positions only once", () => {
    const keyPositions = Int32Array.from({ length: 200 }, (_, n) => n);
    const plan = planAttention({ ...sized(100, 200), mask: causal(), keyPositions });
    const before = [...plan.tiles.columns];
    keyPositions.fill(0);
    expect([...plan.tiles.columns]).toEqual(before);
    for (const part of [plan, plan.tiles, plan.bits, plan.work, plan.merges, plan.cost]) {
      expect(Object.isFrozen(part)).toBe(true);
    }
    const arrays = [plan.tiles, plan.bits, plan.work, plan.merges].flatMap((part) => Object.values(part));
    const bytes = arrays.reduce((sum: number, array) => sum + (ArrayBuffer.isView(array) ? array.byteLength : 0), 0);
    expect(plan.bytes).toBe(bytes);
  });

  it("plans nothing for no queries and no keys", () => {
    for (const [Tq, Tk] of [
      [0, 7],
      [7, 0],
      [0, 0],
    ]) {
      const plan = planAttention({ ...sized(Tq, Tk), mask: causal() });
      expect(plan.cost.pairs).toBe(0);
      expect(plan.tiles.columns.length).toBe(0);
    }
  });

  it("explains itself", () => {
    const plan = planAttention(
      { ...sized(300, 300, 4, 2), mask: causal().and(slidingWindow(100)), softcap: 5, sinks: [1, 2, 3, 4] },
      { workers: 3 },
    );
    expect(plan.explain()).toBe(
      [
        "kernel     tiled: 600 rows and 300 keys (backend reference)",
        "sizes      B=1 Tq=300 Tk=300 H=4 Hk=2 D=3 Dv=3, contiguous keys in f32",
        "features   softcap, sinks",
        "tiles      64 rows × 64 keys: 8 full, 40 partial, 52 empty",
        "bits       20 partial tiles, the same for all heads, share 7 patterns",
        "pairs      360000: 50.6 % skipped, 56.4 % of the computed ones visible",
        "cost       2.1 MFLOP",
        "work       20 items over 3 workers (7 8 5), the busiest has 1.13 of the mean",
        "merges     0 row tiles in 0 parts",
        "holds      4.2 KiB",
      ].join("\n"),
    );
  });
});

/** A backend whose kernels lack something. */
const small: Capabilities = {
  backend: "small",
  kernels: {
    dense: { features: ["sinks"], layouts: ["contiguous"], dtypes: ["f32"], maxHeadDim: 128 },
    tiled: { features: ["sinks", "softcap"], layouts: ["contiguous"], dtypes: ["f32", "f16"], maxHeadDim: 64 },
  },
};

describe("planAttention on a backend with limits", () => {
  const plan = (request: PlanRequest, kernel?: KernelName) =>
    thrownBy(() => planAttention(request, { capabilities: small, ...(kernel ? { kernel } : {}) }));

  it("passes over kernels that lack something, and says so", () => {
    const chosen = planAttention({ ...sized(3, 20), softcap: 1 }, { capabilities: small });
    expect([chosen.kernel, chosen.backend]).toEqual(["tiled", "small"]);
    expect(chosen.passedOver).toEqual(["dense lacks softcap", "decode is not there"]);
    expect(chosen.explain().split("\n").slice(0, 3)).toEqual([
      "kernel     tiled: 3 rows and 20 keys (backend small)",
      "passed     dense lacks softcap",
      "passed     decode is not there",
    ]);
  });

  it("refuses what no kernel can do, and names a backend that can", () => {
    expect(plan({ ...sized(3, 20), dropout: { rate: 0.1, seed: 1 } })).toBe(
      'CapabilityError: planAttention: backend "small" must have a kernel for this request; ' +
        'got kernels=["dense lacks dropout","decode is not there","tiled lacks dropout"]. Backend "reference" has one.',
    );
    expect(plan({ q: shape(99, 2, 3), kv: paged, queryPositions: new Int32Array(99) })).toBe(
      'CapabilityError: planAttention: backend "small" must have a kernel for this request; ' +
        'got kernels=["paged is not there"]. Backend "reference" has one.',
    );
    const quantized = {
      ...paged,
      layout: "contiguous" as const,
      keys: quantizeKv(values([1, 190, 2, 3], 1), { bits: 8 }),
      values: values([1, 190, 2, 3], 2),
    };
    expect(plan({ q: shape(99, 2, 3), kv: quantized, queryPositions: new Int32Array(99) })).toBe(
      'CapabilityError: planAttention: backend "small" must have a kernel for this request; ' +
        'got kernels=["tiled lacks int8 keys"]. Backend "reference" has one.',
    );
  });

  it("refuses a forced kernel that lacks something, and names one that does not", () => {
    expect(plan({ ...sized(3, 20), softcap: 1 }, "dense")).toBe(
      "CapabilityError: planAttention: kernel dense must support what the request needs; " +
        'got backend="small", lacking="softcap". Kernel "tiled" can do it.',
    );
    expect(plan({ ...sized(3, 20), accumulate: "f64" }, "tiled")).toBe(
      "CapabilityError: planAttention: kernel tiled must support what the request needs; " +
        'got backend="small", lacking="f64Accumulation". Backend "reference" can do it.',
    );
    expect(plan(sized(3, 20), "decode")).toBe(
      "CapabilityError: planAttention: kernel decode must support what the request needs; " +
        'got backend="small", lacking="the kernel". Kernel "dense" can do it.',
    );
    const wide = { q: shape(3, 1, 100), k: shape(200, 1, 100), v: shape(200, 1, 100) };
    expect(plan(wide, "tiled")).toBe(
      "CapabilityError: planAttention: kernel tiled must support what the request needs; " +
        'got backend="small", lacking="head dim 100". Backend "reference" can do it.',
    );
  });
});

describe("planAttention refuses", () => {
  const plan = (request: PlanRequest, options: PlanOptions) => thrownBy(() => planAttention(request, options));

  it("forced kernels that cannot run the request at all", () => {
    expect(plan(sized(65, 90), { kernel: "decode" })).toBe(
      "CapabilityError: planAttention: kernel decode takes at most 64 rows (queries × heads of a group); " +
        'got rows=65, keys=90, layout="contiguous". Kernel "tiled" can do it.',
    );
    expect(plan(sized(65, 4097), { kernel: "dense" })).toBe(
      "CapabilityError: planAttention: kernel dense takes at most 4096 keys; " +
        'got rows=65, keys=4097, layout="contiguous". Kernel "tiled" can do it.',
    );
    const request = { q: shape(1, 4, 3), kv: paged, queryPositions: Int32Array.of(189) };
    expect(plan(request, { kernel: "tiled" })).toBe(
      "CapabilityError: planAttention: kernel tiled takes keys that are not in pages; " +
        'got rows=2, keys=190, layout="paged". Kernel "paged" can do it.',
    );
  });

  it("unknown kernels, odd tiles and workers", () => {
    expect(plan(sized(3, 20), { kernel: "flash" as KernelName })).toBe(
      'ConfigError: planAttention: kernel must be one of paged, dense, ragged, decode, tiled; got kernel="flash".',
    );
    expect(plan(sized(3, 20), { kernel: "dense", tile: { keys: 19 } })).toBe(
      "ConfigError: planAttention: tile.keys must cover all keys in the dense kernel; got keys=19, Tk=20.",
    );
    expect(plan({ q: shape(1, 4, 3), kv: paged, queryPositions: Int32Array.of(189) }, { tile: { keys: 7 } })).toBe(
      "ConfigError: planAttention: tile.keys must be a multiple or a divisor of the page size; got keys=7, page=5.",
    );
    expect(plan(sized(3, 20), { tile: { rows: 0 } })).toBe(
      "ConfigError: planTiles: rowTile must be an integer of at least 1; got rowTile=0.",
    );
    expect(plan(sized(3, 20), { workers: 0 })).toBe(
      "ConfigError: planWork: workers must be an integer of at least 1; got workers=0.",
    );
    expect(plan(sized(3, 20), { workers: 1e9 })).toBe(
      "ConfigError: planWork: workers must be at most 4096; got workers=1000000000.",
    );
    expect(plan(sized(3, 20), { tile: { rows: 2 ** 40 } })).toBe(
      "ConfigError: planAttention: a tile must have at most 16777216 pairs; got rowTile=1099511627776, keyTile=20.",
    );
    expect(plan(sized(3, 20), { maxBytes: Number.NaN })).toBe(
      "ConfigError: planAttention: maxBytes must be a number of bytes; got maxBytes=NaN.",
    );
  });

  it("sizes that no memory holds, before any is taken", () => {
    expect(plan({ ...sized(3, 20), q: shape(2 ** 40, 1, 3) }, {})).toBe(
      "BudgetError: attention: at most 67108864 queries and as many keys; got B=1, Tq=1099511627776, Tk=20.",
    );
    expect(plan({ ...sized(3, 20), q: shape(1, 2 ** 40, 3) }, {})).toBe(
      "BudgetError: planTiles: at most 16777216 row tiles; got batch=1, planes=1, rowTiles=17179869184.",
    );
    const k = shape(20, 2 ** 30, 3);
    expect(plan({ q: shape(1, 2 ** 30, 3), k, v: k }, {})).toBe(
      "BudgetError: planWork: at most 2097152 row tiles of all heads; got items=1073741824.",
    );
    expect(plan({ ...sized(3, 20), q: shape(-3, 1, 3) }, {})).toBe(
      "ShapeError: attention: every extent of q must be a non-negative integer; got q=[-3,1,3].",
    );
  });

  it("bits beyond the budget, before they are taken", () => {
    const cells = Uint8Array.from({ length: 640 * 640 }, (_, n) => ((n * n) % 7 < 3 ? 1 : 0));
    expect(plan({ ...sized(640, 640), mask: table("t"), tables: { t: cells } }, { maxBytes: 1000 })).toBe(
      "BudgetError: planAttention: the bits of partial tiles must fit 1000 bytes; got bytes=1024. " +
        "Use a mask with fewer irregular tiles, or raise maxBytes.",
    );
  });

  it("MoBA over shapes without numbers", () => {
    expect(plan({ ...sized(3, 20), select: { kind: "moba", chunk: 4, topk: 2 } }, {})).toBe(
      "ConfigError: planAttention: q and k must have numbers when select is moba. " +
        "Give tensors, or the result of selectKeys as select.",
    );
  });
});

describe("validateAttentionPlan", () => {
  const request = {
    q: values([11, 4, 3], 1),
    k: values([29, 2, 3], 2),
    v: values([29, 2, 3], 3),
    mask: causal().and(chunked(8).or(sameSegment())),
    querySegments: Int32Array.from({ length: 11 }, (_, n) => n >> 2),
    keySegments: Int32Array.from({ length: 29 }, (_, n) => (n >> 2) - 4),
  };
  const plan = planAttention(request, { workers: 5, tile: { rows: 5, keys: 7 } });
  const validate = (changed: Partial<AttentionPlan>) =>
    thrownBy(() => validateAttentionPlan({ ...plan, ...changed }, request));

  it("tells how much it checked", () => {
    const report = validateAttentionPlan(plan, request);
    expect(report).toEqual({ entries: plan.tiles.columns.length, items: plan.work.row.length, pairs: 4 * 11 * 29 });
    expect(validateAttentionPlan(plan, request, 100).pairs).toBe(0);
  });

  it("finds a flipped bit, a lost tile, lost work and a lost merge", () => {
    const { bits, tiles, work, merges } = plan;
    const data = bits.data.slice();
    data[bits.offsets[0] + 3] ^= 1;
    expect(validate({ bits: { ...bits, data } })).toMatch(
      /^ConfigError: validateAttentionPlan: the pair must be visible in [01] entries; got batch=0, head=\d+, query=\d+, key=\d+, visible=[01]\.$/,
    );
    const columns = tiles.columns.slice();
    columns[0] = 99;
    expect(validate({ tiles: { ...tiles, columns } })).toMatch(
      /^ConfigError: validateAttentionPlan: a row tile has each of 5 key tiles at most once; got row=0, /,
    );
    const swapped = tiles.columns.slice();
    swapped.subarray(1, 3).reverse();
    expect(validate({ tiles: { ...tiles, columns: swapped } })).toBe(
      "ConfigError: validateAttentionPlan: full and partial key tiles must each ascend; got row=1, columns=[3, 2].",
    );
    const entryEnd = work.entryEnd.slice();
    entryEnd[entryEnd.length - 1] -= 1;
    expect(validate({ work: { ...work, entryEnd } })).toMatch(
      /^ConfigError: validateAttentionPlan: the items of a row tile must end at \d+; got /,
    );
    const workerPointers = work.workerPointers.slice(0, -1);
    expect(validate({ work: { ...work, workerPointers } })).toMatch(
      /^ConfigError: validateAttentionPlan: workers must share the items 0 to \d+; got /,
    );
    const slots = merges.slots.slice();
    slots[0] += 1;
    expect(validate({ merges: { ...merges, slots } })).toMatch(
      /^ConfigError: validateAttentionPlan: parts of row tiles must have a slot each and be merged; got item=0, /,
    );
  });

  it("refuses a plan of another mask", () => {
    expect(thrownBy(() => validateAttentionPlan(plan, { ...request, mask: causal() }))).toBe(
      'ConfigError: validateAttentionPlan: the plan was made for another mask; got mask="causal()". Make a new plan.',
    );
  });
});

describe("a plan of the reference", () => {
  it("is made for all kernels with all features", () => {
    expect(Object.keys(REFERENCE_CAPABILITIES.kernels).length).toBe(5);
    const request = { q: values([1, 4, 3], 1), kv: paged, queryPositions: Int32Array.of(189) };
    expect(runPlan(planAttention(request), request).out.shape).toEqual([1, 4, 3]);
  });
});
