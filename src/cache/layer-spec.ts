/**
 * What one layer of a cache holds, and how.
 */

import { CapabilityError, ConfigError } from "../errors.ts";
import { dependsOnLength, type RotaryLayer } from "../rope/index.ts";

/** Widths of one layer's keys and values. */
export type KvLayerShape = {
  /** Hk, key-value heads. */
  readonly kvHeads: number;
  /** D, width of a key. */
  readonly keyDim: number;
  /** Dv, width of a value. */
  readonly valueDim: number;
};

/** Element type of stored rows: int8 and int4 have one scale per token and head. */
export type CacheElements = "f32" | "int8" | "int4";

/**
 * Where rows are stored.
 *
 * - `contiguous`: one run of rows that grows by doubling
 * - `ring`: for a sliding window. The oldest rows make room for new ones; at least the last window − 1 rows stay, so
 *   that `maxChunk` new queries at a time (default: the window) see all they may.
 * - `paged`: pages of `pageSize` rows (default 16); forks share pages until one writes to them
 */
export type CacheLayout =
  | { readonly type: "contiguous" }
  | { readonly type: "ring"; readonly window: number; readonly maxChunk?: number }
  | { readonly type: "paged"; readonly pageSize?: number };

/** One layer of a cache. */
export type KvLayerSpec = KvLayerShape & {
  /** Contiguous unless told. */
  readonly layout?: CacheLayout;
  /** f32 unless told. */
  readonly elements?: CacheElements;
  /** The rotation of the keys; null: they are not rotated. Only rows of a known rotation can move. */
  readonly rotary?: RotaryLayer | null;
  /** Rows (per head, on average over the heads) allocated at once at the first append, and never more. */
  readonly capacity?: number;
  /** Keep quantised keys as they came beside the moved ones, so that moves never add up; costs their bytes again. */
  readonly pristineKeys?: boolean;
};

/** A layer with nothing left open. */
export type ResolvedLayer = KvLayerShape & {
  readonly layout: Required<CacheLayout>;
  readonly elements: CacheElements;
  readonly rotary: RotaryLayer | null | undefined;
  readonly capacity: number | undefined;
  readonly pristineKeys: boolean;
};

const DEFAULT_PAGE_SIZE = 16;

/**
 * Fills in defaults.
 *
 * @throws ConfigError for sizes that are not counts, or a rotation of another head width
 * @throws CapabilityError for combinations that no cache has
 */
export function resolveLayer(where: string, spec: KvLayerSpec, layer: number): ResolvedLayer {
  const { kvHeads, keyDim, valueDim, elements = "f32", rotary, capacity, pristineKeys = false } = spec;
  const layout = resolveLayout(spec.layout ?? { type: "contiguous" });
  const sizes: Record<string, number> = { kvHeads, keyDim, valueDim };
  if (capacity !== undefined) sizes.capacity = capacity;
  if (layout.type === "ring") Object.assign(sizes, { window: layout.window, maxChunk: layout.maxChunk });
  if (layout.type === "paged") sizes.pageSize = layout.pageSize;
  for (const [name, size] of Object.entries(sizes)) {
    if (Number.isSafeInteger(size) && size > 0) continue;
    throw new ConfigError(where, `${name} must be a positive integer`, { [name]: size, layer });
  }
  if (!["f32", "int8", "int4"].includes(elements)) {
    throw new ConfigError(where, 'elements must be "f32", "int8" or "int4"', { elements, layer });
  }
  if (rotary && rotary.headDim !== keyDim) {
    throw new ConfigError(where, "the rotation must be for heads of keyDim", {
      headDim: rotary.headDim,
      keyDim,
      layer,
    });
  }
  if (layout.type === "ring" && capacity !== undefined) {
    throw new CapabilityError(
      where,
      "a ring takes no capacity, its size is window + maxChunk - 1",
      { capacity, layer },
      "Choose maxChunk instead.",
    );
  }
  if (layout.type === "paged" && elements !== "f32" && layout.pageSize % 4 !== 0) {
    throw new CapabilityError(
      where,
      "pages of quantised rows must start at whole words",
      {
        pageSize: layout.pageSize,
        layer,
      },
      "Choose a pageSize that is a multiple of 4.",
    );
  }
  if (pristineKeys && elements === "f32") {
    throw new CapabilityError(
      where,
      "pristineKeys goes with int8 and int4",
      { elements, layer },
      "Moves of f32 keys are exact to about 1e-7 each.",
    );
  }
  if (pristineKeys && rotary && dependsOnLength(rotary.schedule)) {
    throw new CapabilityError(
      where,
      "pristineKeys needs a schedule whose frequencies never change",
      { type: rotary.schedule.type, layer },
      "Use f32 elements, or int8 without pristineKeys.",
    );
  }
  return { kvHeads, keyDim, valueDim, layout, elements, rotary, capacity, pristineKeys };
}

function resolveLayout(layout: CacheLayout): Required<CacheLayout> {
  switch (layout.type) {
    case "contiguous":
      return layout;
    case "ring":
      return { ...layout, maxChunk: layout.maxChunk ?? layout.window };
    case "paged":
      return { ...layout, pageSize: layout.pageSize ?? DEFAULT_PAGE_SIZE };
    default:
      throw new ConfigError("createKvCache", 'layout must be "contiguous", "ring" or "paged"', { layout });
  }
}

/** Bytes of one head of one row: numbers, and the scale where there is one. */
export function unitBytes(elements: CacheElements, dim: number): number {
  if (elements === "f32") return 4 * dim;
  return (elements === "int8" ? dim : Math.ceil(dim / 2)) + 4;
}

/** Bytes of one head of one row of keys and values together. */
export function headRowBytes({ elements, keyDim, valueDim, pristineKeys }: ResolvedLayer): number {
  const keys = unitBytes(elements, keyDim);
  return keys * (pristineKeys ? 2 : 1) + unitBytes(elements, valueDim);
}
