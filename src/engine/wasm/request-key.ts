/**
 * What of a request a plan and its place in memory depend on, remembered so that the next request like it is known
 * without reading its positions again.
 */

import type { AttentionRequest, KeyValues, KvStore } from "../../attention/index.ts";
import { holds } from "../../dtype.ts";
import { sizeOf, type Tensor } from "../../tensor.ts";

/** Longer lists are compared by identity: whoever has handed one over with a plan must not write to it. */
const COMPARED = 256;

const LISTS = [
  "queryPositions",
  "querySegments",
  "keyPositions",
  "keySegments",
  "querySpans",
  "keySpans",
  "queryNodes",
  "keyNodes",
  "prefixLengths",
  "lengths",
] as const;

/** What makes kernels read more than rows and keys: such requests are prepared anew for every call. */
const OTHERS = ["scoreModifier", "alibiSlopes", "bias", "select", "dropout", "tables", "integerTables"] as const;

/** A request, without its numbers. */
export class RequestKey {
  readonly #request: AttentionRequest;
  readonly #lists: readonly SeenList[];
  readonly #kv: SeenKv | undefined;

  /** Whether such requests can be known again. */
  static takes(request: AttentionRequest): boolean {
    return OTHERS.every((name) => request[name] === undefined);
  }

  constructor(request: AttentionRequest) {
    this.#request = { ...request };
    this.#lists = LISTS.map((name) => new SeenList(request[name], COMPARED));
    this.#kv = request.kv && new SeenKv(request.kv);
  }

  /** Whether a request differs in nothing but numbers of q, k, v and sinks, their places, and the scale. */
  matches(request: AttentionRequest): boolean {
    const own = this.#request;
    if (
      request.mask !== own.mask ||
      request.softcap !== own.softcap ||
      request.accumulate !== own.accumulate ||
      request.outputs?.maxLogits !== own.outputs?.maxLogits ||
      request.sinks?.length !== own.sinks?.length ||
      !isLegal(request) ||
      !RequestKey.takes(request) ||
      !sameTensor(request.q, own.q)
    ) {
      return false;
    }
    for (let n = 0; n < LISTS.length; n++) if (!this.#lists[n].matches(request[LISTS[n]])) return false;
    if (request.kv !== undefined) return this.#kv?.matches(request.kv) ?? false;
    return own.kv === undefined && sameTensor(request.k, own.k) && sameTensor(request.v, own.v);
  }
}

/** Whether scale and sinks are numbers that attention takes. */
function isLegal({ scale, sinks }: AttentionRequest): boolean {
  if (scale !== undefined && !Number.isFinite(scale)) return false;
  for (let h = 0; sinks !== undefined && h < sinks.length; h++) if (!(sinks[h] < Infinity)) return false;
  return true;
}

/** Positions, segments and places of keys and values. */
class SeenKv {
  readonly #kv: KeyValues;
  readonly #positions: SeenList;
  readonly #segments: SeenList;
  readonly #places: readonly SeenList[];

  constructor(kv: KeyValues) {
    this.#kv = { ...kv };
    this.#positions = new SeenList(kv.positions, COMPARED);
    this.#segments = new SeenList(kv.segments, COMPARED);
    this.#places = placesOf(kv).map((list) => new SeenList(list, Infinity));
  }

  matches(kv: KeyValues): boolean {
    const own = this.#kv;
    if (kv.layout !== own.layout || !sameStore(kv.keys, own.keys) || !sameStore(kv.values, own.values)) return false;
    const places = placesOf(kv);
    if (!this.#places.every((seen, n) => seen.matches(places[n]))) return false;
    const { positions, segments, order } = kv;
    if (positions.length !== own.positions.length || segments.length !== own.segments.length) return false;
    if (order !== undefined && order.version === own.order?.version) return true;
    return this.#positions.matches(positions) && this.#segments.matches(segments);
  }
}

function placesOf(kv: KeyValues): readonly (Int32Array | undefined)[] {
  if (kv.layout === undefined) return [];
  if (kv.layout === "ring") return [kv.lengths, kv.starts];
  return kv.layout === "paged" ? [kv.lengths, kv.pageTable.data] : [kv.lengths];
}

/** A list as it was. */
class SeenList {
  readonly #list: Int32Array | undefined;
  readonly #copy: Int32Array | undefined;

  /** @param compared - longest list whose contents are compared */
  constructor(list: Int32Array | undefined, compared: number) {
    this.#list = list;
    this.#copy = list !== undefined && list.length <= compared ? list.slice() : undefined;
  }

  matches(list: Int32Array | undefined): boolean {
    const copy = this.#copy;
    if (copy === undefined || list === undefined) return list === this.#list;
    if (!(list instanceof Int32Array) || list.length !== copy.length) return false;
    for (let i = 0; i < copy.length; i++) if (list[i] !== copy[i]) return false;
    return true;
  }
}

function sameStore(a: KvStore, b: KvStore): boolean {
  if (!("codes" in a) || !("codes" in b)) return !("codes" in a) && !("codes" in b) && sameTensor(a, b);
  return (
    a.bits === b.bits &&
    a.axis === b.axis &&
    sameShape(a.shape, b.shape) &&
    sameTensor(a.codes, b.codes) &&
    sameTensor(a.scales, b.scales)
  );
}

/** Whether two tensors have the same type and shape, and `a` the numbers that belong to them. */
function sameTensor(a: Tensor | undefined, b: Tensor | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  return (
    a.dtype === b.dtype && sameShape(a.shape, b.shape) && holds(a.dtype, a.data) && a.data.length === sizeOf(a.shape)
  );
}

function sameShape(a: readonly number[], b: readonly number[]): boolean {
  if (a.length !== b.length) return false;
  for (let axis = 0; axis < a.length; axis++) if (a[axis] !== b[axis]) return false;
  return true;
}
