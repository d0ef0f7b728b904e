/**
 * The plain cache: one growing run of rows per layer.
 */

import type { KvView } from "../attention/index.ts";
import { ShapeError } from "../errors.ts";
import { rows, type Tensor, zeros } from "../tensor.ts";
import type { KvCache, KvMemory, KvRows } from "./cache.ts";

/** Widths of one layer's keys and values. */
export type KvLayerShape = {
  /** Hk, key-value heads. */
  readonly kvHeads: number;
  /** D, width of a key. */
  readonly keyDim: number;
  /** Dv, width of a value. */
  readonly valueDim: number;
};

type Layer = {
  readonly shape: KvLayerShape;
  length: number;
  keys: Tensor<"f32">;
  values: Tensor<"f32">;
  positions: Int32Array;
  segments: Int32Array;
};

const FIRST_CAPACITY = 16;

/** Plain arrays on the JavaScript heap. */
const HOST_MEMORY: KvMemory = {
  allocate: (shape) => zeros("f32", shape),
  copy: (out, x) => out.data.set(x.data),
  release: () => {},
};

/**
 * A cache whose layers grow by doubling.
 *
 * @param shapes - one entry per layer
 * @param memory - where rows are kept; the JavaScript heap when absent
 * @returns an empty cache
 */
export function createContiguousCache(shapes: readonly KvLayerShape[], memory: KvMemory = HOST_MEMORY): KvCache {
  return new ContiguousCache(shapes, memory);
}

class ContiguousCache implements KvCache {
  readonly #layers: Layer[];
  readonly #memory: KvMemory;
  #nextPosition = 0;

  constructor(shapes: readonly KvLayerShape[], memory: KvMemory) {
    this.#layers = shapes.map((shape) => emptyLayer(shape, memory));
    this.#memory = memory;
  }

  get layers(): number {
    return this.#layers.length;
  }

  get nextPosition(): number {
    return this.#nextPosition;
  }

  get bytes(): number {
    let bytes = 0;
    for (const { shape, length } of this.#layers) {
      bytes += length * shape.kvHeads * (shape.keyDim + shape.valueDim) * Float32Array.BYTES_PER_ELEMENT;
    }
    return bytes;
  }

  length(layer?: number): number {
    if (layer !== undefined) return this.#layer("length", layer).length;
    return Math.max(0, ...this.#layers.map((one) => one.length));
  }

  append(layer: number, added: KvRows): void {
    const target = this.#layer("append", layer);
    const count = added.positions.length;
    checkRows(added, target.shape);
    this.#grow(target, target.length + count);
    this.#memory.copy(rows(target.keys, target.length, target.length + count), added.keys);
    this.#memory.copy(rows(target.values, target.length, target.length + count), added.values);
    target.positions.set(added.positions, target.length);
    target.segments.set(added.segments, target.length);
    target.length += count;
    for (const position of added.positions) this.#nextPosition = Math.max(this.#nextPosition, position + 1);
  }

  view(layer: number): KvView {
    const { length, keys, values, positions, segments } = this.#layer("view", layer);
    return {
      keys: rows(keys, 0, length),
      values: rows(values, 0, length),
      positions: positions.subarray(0, length),
      segments: segments.subarray(0, length),
    };
  }

  clear(): void {
    for (const layer of this.#layers) layer.length = 0;
    this.#nextPosition = 0;
  }

  #grow(layer: Layer, needed: number): void {
    const capacity = layer.positions.length;
    if (needed <= capacity) return;
    const larger = Math.max(needed, 2 * capacity, FIRST_CAPACITY);
    layer.keys = this.#enlarged(layer.keys, larger);
    layer.values = this.#enlarged(layer.values, larger);
    layer.positions = enlargedList(layer.positions, larger);
    layer.segments = enlargedList(layer.segments, larger);
  }

  #enlarged(t: Tensor<"f32">, length: number): Tensor<"f32"> {
    const larger = this.#memory.allocate([length, ...t.shape.slice(1)]);
    if (t.shape[0] > 0) this.#memory.copy(rows(larger, 0, t.shape[0]), t);
    this.#memory.release(t);
    return larger;
  }

  #layer(method: string, index: number): Layer {
    const layer = this.#layers[index];
    if (layer === undefined) {
      throw new ShapeError(`cache.${method}`, "a layer of the cache", { layer: index, layers: this.layers });
    }
    return layer;
  }
}

function enlargedList(values: Int32Array, length: number): Int32Array {
  const larger = new Int32Array(length);
  larger.set(values);
  return larger;
}

function emptyLayer(shape: KvLayerShape, memory: KvMemory): Layer {
  return {
    shape,
    length: 0,
    keys: memory.allocate([0, shape.kvHeads, shape.keyDim]),
    values: memory.allocate([0, shape.kvHeads, shape.valueDim]),
    positions: new Int32Array(0),
    segments: new Int32Array(0),
  };
}

function checkRows({ keys, values, positions, segments }: KvRows, shape: KvLayerShape): void {
  const count = positions.length;
  const wanted = {
    keys: [count, shape.kvHeads, shape.keyDim],
    values: [count, shape.kvHeads, shape.valueDim],
    segments: [count],
  };
  const given = { keys: keys.shape, values: values.shape, segments: [segments.length] };
  for (const name of ["keys", "values", "segments"] as const) {
    if (given[name].join() !== wanted[name].join()) {
      throw new ShapeError("cache.append", `${name} must be [${wanted[name].join(", ")}]`, { [name]: given[name] });
    }
  }
}
