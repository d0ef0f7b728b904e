import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CacheModel, type ModelRotation, type ModelRow, rotatedKey } from "../../test/support/cache-model.ts";
import { QueuedMemory } from "../../test/support/queued-memory.ts";
import { gatherKv, type KeyValues, type KvViews, type SlotOrder } from "../attention/index.ts";
import { BudgetError, CapabilityError } from "../errors.ts";
import type { RotaryLayer } from "../rope/index.ts";
import { f32 } from "../tensor.ts";
import {
  createKvCache,
  dropKeyChannels,
  type KvCacheOptions,
  type KvLayerSpec,
  type PositionedCache,
  restoreSnapshot,
  saveSnapshot,
} from "./index.ts";

const [HEADS, KEY_DIM, VALUE_DIM] = [3, 6, 5];
const LAYERS = 2;
const ROTATIONS: readonly ModelRotation[] = [
  { pairing: "half", factor: 1 },
  { pairing: "interleaved", factor: 1.25 },
];
const rotaryOf = ({ pairing, factor }: ModelRotation): RotaryLayer => ({
  headDim: KEY_DIM,
  rotaryDim: KEY_DIM,
  rotaryOffset: 0,
  pairing,
  schedule:
    factor === 1
      ? { type: "default", dim: KEY_DIM, theta: 100 }
      : // Equal lists of ones: plain frequencies with an attention factor.
        {
          type: "longrope",
          dim: KEY_DIM,
          theta: 100,
          shortFactors: [1, 1, 1],
          longFactors: [1, 1, 1],
          originalLength: 64,
          factor: 1,
          attentionFactor: factor,
        },
});

type Kind = Pick<KvLayerSpec, "layout" | "elements" | "capacity" | "pristineKeys"> & Pick<KvCacheOptions, "heads">;
const RING = { type: "ring", window: 5, maxChunk: 4 } as const;
const KINDS: Record<string, Kind> = {
  contiguous: {},
  "contiguous of fixed capacity": { capacity: 200 },
  paged: { layout: { type: "paged", pageSize: 3 } },
  "paged of fixed capacity": { layout: { type: "paged", pageSize: 3 }, capacity: 800 },
  ring: { layout: RING },
  int8: { elements: "int8" },
  int4: { elements: "int4" },
  "int8 with pristine keys": { elements: "int8", pristineKeys: true },
  "int4 with pristine keys in pages": {
    elements: "int4",
    pristineKeys: true,
    layout: { type: "paged", pageSize: 4 },
  },
  "int8 in a ring": { elements: "int8", layout: RING },
  "heads apart": { heads: "apart" },
  "int8 heads apart in a ring": { elements: "int8", layout: RING, heads: "apart" },
  "heads of all layers in one pool": { layout: { type: "paged", pageSize: 3 }, capacity: 800, heads: "pooled" },
  "int4 heads with pristine keys in one pool": {
    ...{ elements: "int4", pristineKeys: true, heads: "pooled" },
    ...{ layout: { type: "paged", pageSize: 4 }, capacity: 800 },
  },
};

type Operation =
  | { readonly kind: "append"; readonly count: number; readonly salt: number }
  | { readonly kind: "fork" | "clear" | "merge" | "dispose" | "restore" }
  | { readonly kind: "crop"; readonly at: number }
  | { readonly kind: "erase"; readonly at: number; readonly count: number; readonly closeGap: boolean }
  | { readonly kind: "compact"; readonly layer: number; readonly bits: readonly boolean[]; readonly perHead: boolean }
  | { readonly kind: "move"; readonly layer: number; readonly first: number }
  | { readonly kind: "drop"; readonly layer: number; readonly bits: readonly boolean[] };
type Step = { readonly cache: number; readonly operation: Operation };

const fraction = fc.integer({ min: 0, max: 100 });
const layerIndex = fc.integer({ min: 0, max: LAYERS - 1 });
const operationArbitrary: fc.Arbitrary<Operation> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant("append" as const),
      count: fc.integer({ min: 1, max: 4 }),
      salt: fc.integer({ min: 0, max: 1000 }),
    }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constantFrom("fork" as const, "merge" as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("restore" as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constantFrom("clear" as const, "dispose" as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("crop" as const), at: fraction }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("erase" as const),
      at: fraction,
      count: fc.integer({ min: 0, max: 5 }),
      closeGap: fc.boolean(),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("compact" as const),
      layer: layerIndex,
      bits: fc.array(fc.boolean(), { minLength: 7, maxLength: 7 }),
      perHead: fc.boolean(),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("move" as const),
      layer: layerIndex,
      first: fc.integer({ min: 0, max: 50 }),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("drop" as const),
      layer: layerIndex,
      bits: fc.array(fc.boolean(), { minLength: KEY_DIM + 1, maxLength: KEY_DIM + 1 }),
    }),
  },
);
const stepsArbitrary: fc.Arbitrary<Step[]> = fc.array(
  fc.record({ cache: fc.integer({ min: 0, max: 3 }), operation: operationArbitrary }),
  { minLength: 1, maxLength: 25 },
);

type Pair = { readonly real: PositionedCache; readonly model: CacheModel };

function numbersOf(length: number, salt: number): number[] {
  return Array.from({ length }, (_, i) => Math.sin(12.9898 * (i + 1) + 78.233 * salt));
}

class Bench {
  readonly memory = new QueuedMemory();
  readonly kind: Kind;
  readonly pairs: Pair[];

  constructor(kind: Kind) {
    this.kind = kind;
    const capacity = kind.layout?.type === "ring" ? 8 : Infinity;
    this.pairs = [
      {
        real: this.empty(),
        model: new CacheModel(LAYERS, HEADS, capacity),
      },
    ];
  }

  empty(): PositionedCache {
    const widths = { kvHeads: HEADS, keyDim: KEY_DIM, valueDim: VALUE_DIM };
    const { heads = "together", ...kind } = this.kind;
    const layers = ROTATIONS.map((rotation) => ({ ...widths, rotary: rotaryOf(rotation), ...kind }));
    return createKvCache(layers, { memory: this.memory, heads });
  }

  async run({ cache, operation }: Step): Promise<void> {
    const index = cache % this.pairs.length;
    const { real, model } = this.pairs[index];
    switch (operation.kind) {
      case "append":
        this.append(this.pairs[index], operation.count, operation.salt);
        break;
      case "fork":
        if (this.pairs.length < 4) this.pairs.push({ real: real.fork(), model: model.fork() });
        break;
      case "clear":
        real.clear();
        model.clear();
        break;
      case "dispose":
        if (this.pairs.length > 1) this.pairs.splice(index, 1)[0].real.dispose();
        break;
      case "restore": {
        const restored = this.empty();
        await restoreSnapshot(restored, saveSnapshot(real, { model: "m" }), { model: "m" });
        real.dispose();
        this.pairs[index] = { real: restored, model };
        break;
      }
      case "merge": {
        const other = this.pairs[(index + 1) % this.pairs.length];
        if (other.real === real || real.length() + other.real.length() > 60) break;
        try {
          real.merge(other.real);
        } catch (error) {
          // A ring takes only so many rows at once; what was merged before stays, so the pair is given up.
          if (!(error instanceof BudgetError)) throw error;
          real.clear();
          model.clear();
          break;
        }
        model.merge(other.model);
        break;
      }
      case "crop": {
        const length = Math.floor((operation.at / 100) * (real.nextPosition + 2));
        try {
          real.crop(length);
        } catch (error) {
          if (!(error instanceof CapabilityError)) throw error;
          break;
        }
        model.crop(length);
        break;
      }
      case "erase": {
        const start = Math.floor((operation.at / 100) * real.nextPosition);
        real.erase(start, start + operation.count, { closeGap: operation.closeGap });
        model.erase(start, start + operation.count, operation.closeGap);
        break;
      }
      case "compact": {
        const { layer, bits, perHead } = operation;
        const kept = model.heads[layer].map((rows, head) =>
          [...rows.keys()].filter((slot) => bits[(slot + (perHead ? head * slot : 0)) % bits.length]),
        );
        const equal = model.heads[layer].every((rows) => rows.length === model.heads[layer][0].length);
        if (kept.some((list) => list.length === 0)) break;
        if (perHead || !equal)
          real.compact(
            layer,
            kept.map((list) => Int32Array.from(list)),
          );
        else real.compact(layer, Int32Array.from(kept[0]));
        model.compact(layer, perHead || !equal ? kept : kept.map(() => kept[0]));
        break;
      }
      case "move": {
        const { layer, first } = operation;
        const lists = model.heads[layer].map((rows) => rows.map((_, slot) => first + slot));
        const asked = lists.map((list) => Int32Array.from(list));
        real.moveTo(layer, real.isRagged(layer) ? { perHead: asked } : asked[0]);
        lists.forEach((list, head) => {
          model.moveTo(layer, head, list);
        });
        break;
      }
      case "drop": {
        const { layer, bits } = operation;
        const { layout, capacity, pristineKeys } = this.kind;
        // The key that is kept beside a moved one has its channels where it was rotated to first.
        if (pristineKeys && model.heads[layer].flat().some((row) => row.moves > 0)) break;
        // With the last bit heads drop different numbers of channels.
        const dropped = Array.from({ length: HEADS }, (_, head) =>
          Array.from({ length: KEY_DIM }, (_, d) => bits[(d + head) % (bits[KEY_DIM] ? KEY_DIM + 1 : KEY_DIM)]),
        );
        dropKeyChannels(
          real,
          layer,
          dropped.map((list) => Uint8Array.from(list, Number)),
        );
        model.drop(layer, dropped, ROTATIONS[layer], layout?.type !== "ring" && capacity === undefined);
      }
    }
    this.memory.flush();
  }

  append({ real, model }: Pair, count: number, salt: number): void {
    const start = real.nextPosition;
    for (let layer = 0; layer < LAYERS; layer++) {
      const rows = Array.from({ length: HEADS }, (_, head) =>
        Array.from({ length: count }, (_, t): ModelRow => {
          const name = 1000 * salt + 100 * layer + 10 * head + t;
          return {
            key: numbersOf(KEY_DIM, name),
            value: numbersOf(VALUE_DIM, name + 0.5),
            position: start + t,
            segment: salt % 3,
            moves: 0,
            cleared: 0,
          };
        }),
      );
      const byToken = (pick: (row: ModelRow) => readonly number[]): number[] =>
        Array.from({ length: count }, (_, t) => rows.flatMap((head) => [...pick(head[t])])).flat();
      real.append(layer, {
        keys: f32(
          [count, HEADS, KEY_DIM],
          byToken((row) => rotatedKey(row.key, row.position, ROTATIONS[layer])),
        ),
        values: f32(
          [count, HEADS, VALUE_DIM],
          byToken((row) => row.value),
        ),
        positions: Int32Array.from(rows[0], (row) => row.position),
        segments: Int32Array.from(rows[0], (row) => row.segment),
      });
      rows.forEach((head, h) => {
        model.append(layer, h, head);
      });
    }
  }

  /** Compares everything that can be seen of every cache. */
  check(): void {
    const known = new Map<object, string>(); // slots by version
    for (const { real, model } of this.pairs) {
      let bytes = 0;
      for (let layer = 0; layer < LAYERS; layer++) {
        for (let head = 0; head < HEADS; head++) {
          const rows = model.heads[layer][head];
          bytes += rows.reduce((sum, { width }) => sum + this.headRowBytes(width), 0);
          expect([...real.positions(layer, head)]).toEqual(rows.map((row) => row.position));
          expect([...real.segments(layer, head)]).toEqual(rows.map((row) => row.segment));
          this.checkHead(real, layer, head, rows);
        }
        const kv = real.attended(layer);
        const list = (views: KvViews): KeyValues[] => [views].flat() as KeyValues[];
        for (const view of "narrow" in kv ? [...list(kv.narrow), ...list(kv.full)] : list(kv)) checkOrder(view, known);
      }
      expect(real.bytes).toBe(bytes);
      expect(real.nextPosition).toBe(model.next);
      expect(real.allocatedBytes).toBeGreaterThanOrEqual(real.bytes);
    }
  }

  checkHead(real: PositionedCache, layer: number, head: number, rows: readonly ModelRow[]): void {
    const ragged = real.isRagged(layer);
    const whole = (): KeyValues => (ragged ? real.headViews(layer)[head] : real.view(layer));
    const view = real.isNarrowed(layer) ? real.wideViews(layer)[ragged ? head : 0] : whole();
    const { k, v, keyPositions } = gatherKv(view);
    expect([...keyPositions]).toEqual(rows.map((row) => row.position));
    const heads = ragged ? 1 : HEADS;
    const of = (data: ArrayLike<number>, slot: number, width: number): number[] =>
      Array.from({ length: width }, (_, d) => data[(slot * heads + (ragged ? 0 : head)) * width + d]);
    rows.forEach((row, slot) => {
      const key = rotatedKey(row.key, row.position, ROTATIONS[layer]);
      const turned = this.kind.pristineKeys ? Math.min(row.moves, 1) : row.moves;
      this.checkNumbers(of(k.data, slot, KEY_DIM), key, turned + row.cleared);
      this.checkNumbers(of(v.data, slot, VALUE_DIM), row.value, 0);
    });
  }

  /** Half a step of the codes for each time that numbers were stored, a step being at most √2 · 1.25 / 127 or / 7. */
  checkNumbers(got: readonly number[], want: readonly number[], moves: number): void {
    const { elements = "f32" } = this.kind;
    const step = { f32: 2e-6, int8: 1.25 / 127, int4: 1.25 / 7 }[elements];
    const largest = Math.max(...want.map((x, d) => Math.abs(x - got[d])));
    expect(largest).toBeLessThanOrEqual(step * (1 + moves));
  }

  headRowBytes(width: number = KEY_DIM): number {
    const { elements = "f32", pristineKeys = false } = this.kind;
    const bytes = { f32: (d: number) => 4 * d, int8: (d: number) => d + 4, int4: (d: number) => Math.ceil(d / 2) + 4 };
    return bytes[elements](width) * (pristineKeys ? 2 : 1) + bytes[elements](VALUE_DIM);
  }
}

/** What a view says of its slots must be true, and equal versions must mean equal slots, in whatever cache. */
function checkOrder({ positions, segments, order }: KeyValues, known: Map<object, string>): void {
  const { version, ascending, segment } = order as SlotOrder;
  if (ascending) expect(positions).toEqual(positions.slice().sort());
  if (segment !== undefined) expect(segments.every((own) => own === segment)).toBe(true);
  const slots = `${positions};${segments}`;
  expect(known.get(version) ?? slots).toBe(slots);
  known.set(version, slots);
}

describe.each(Object.keys(KINDS))("%s", (name) => {
  it("any operations give what plain arrays give, and all memory comes back", () => {
    return fc.assert(
      fc.asyncProperty(stepsArbitrary, async (steps) => {
        const bench = new Bench(KINDS[name]);
        for (const step of steps) {
          await bench.run(step);
          bench.check();
        }
        for (const { real } of bench.pairs) real.dispose();
        bench.memory.flush();
        expect(bench.memory.takenBytes).toBe(0);
      }),
      { numRuns: 60 },
    );
  });
});
