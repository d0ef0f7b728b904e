/**
 * What a backend's attention kernels can do, and what a request needs. Whatever is not declared is refused by name.
 */

import type { KeyValues, KvStore } from "./kv-view.ts";
import type { AttentionSpec } from "./spec.ts";

/** The kinds of attention kernels; see the table of kernel-choice.ts. */
export type KernelName = "dense" | "tiled" | "decode" | "ragged" | "paged";

/** What a request may ask of a kernel beside softmax, scale and mask. */
export type FeatureName =
  | "softcap"
  | "scoreModifier"
  | "alibi"
  | "bias"
  | "sinks"
  | "dropout"
  | "blockSelection"
  | "keySelection"
  | "maxLogits"
  | "f64Accumulation"
  | "mixedHeadDims";

/** Where keys are stored; tensors are "contiguous". */
export type KvLayout = "contiguous" | "ring" | "paged";

/** Element types of queries (f32, f64), keys and values. */
export type ElementType = "f32" | "f64" | "f16" | "bf16" | "int8" | "int4" | "fp8";

/** What one kernel can do. */
export type KernelCapabilities = {
  readonly features: readonly FeatureName[];
  readonly layouts: readonly KvLayout[];
  readonly dtypes: readonly ElementType[];
  /** Largest D and Dv. */
  readonly maxHeadDim: number;
};

/** What a backend can do. */
export type Capabilities = {
  /** Name of the backend, for messages. */
  readonly backend: string;
  /** The kernels it has. */
  readonly kernels: { readonly [name in KernelName]?: KernelCapabilities };
};

/** All features, in the order they are listed in messages. */
export const FEATURE_NAMES: readonly FeatureName[] = [
  "softcap",
  "scoreModifier",
  "alibi",
  "bias",
  "sinks",
  "dropout",
  "blockSelection",
  "keySelection",
  "maxLogits",
  "f64Accumulation",
  "mixedHeadDims",
];

const EVERYTHING: KernelCapabilities = {
  features: FEATURE_NAMES,
  layouts: ["contiguous", "ring", "paged"],
  dtypes: ["f32", "f64", "f16", "bf16", "int8", "int4", "fp8"],
  maxHeadDim: Infinity,
};

/** The reference does everything, by every kernel. */
export const REFERENCE_CAPABILITIES: Capabilities = {
  backend: "reference",
  kernels: { dense: EVERYTHING, tiled: EVERYTHING, decode: EVERYTHING, ragged: EVERYTHING, paged: EVERYTHING },
};

/** What a request needs of a kernel. */
export type Needs = {
  /** In the order of FEATURE_NAMES. */
  readonly features: readonly FeatureName[];
  readonly layout: KvLayout;
  readonly queries: ElementType;
  readonly keys: ElementType;
  readonly values: ElementType;
  readonly headDim: number;
};

/** The needs of a request. */
export function needsOf(spec: AttentionSpec, kv: KeyValues | undefined): Needs {
  const { D, Dv } = spec.dims;
  const kind = spec.select?.kind;
  const wanted: Record<FeatureName, boolean> = {
    softcap: spec.softcap !== undefined,
    scoreModifier: spec.scoreModifier !== undefined,
    alibi: spec.alibiSlopes !== undefined,
    bias: spec.bias !== undefined,
    sinks: spec.sinks !== undefined,
    dropout: spec.dropout !== undefined,
    blockSelection: kind === "moba" || kind === "blocks",
    keySelection: kind === "indexer" || kind === "keys",
    maxLogits: spec.outputs.maxLogits,
    f64Accumulation: spec.accumulate === "f64",
    mixedHeadDims: D !== Dv,
  };
  return {
    features: FEATURE_NAMES.filter((name) => wanted[name]),
    layout: kv?.layout ?? "contiguous",
    queries: spec.q.dtype,
    keys: elementType(kv?.keys ?? spec.k),
    values: elementType(kv?.values ?? spec.v),
    headDim: Math.max(D, Dv),
  };
}

function elementType(store: KvStore): ElementType {
  if (!("codes" in store)) return store.dtype;
  return store.bits === "fp8" ? "fp8" : `int${store.bits}`;
}

/**
 * The first thing that a kernel lacks for a request.
 *
 * @returns a name for messages: "dropout", "paged keys", "int8 values"; undefined when it lacks nothing
 */
export function lacking(can: KernelCapabilities, needs: Needs): string | undefined {
  const feature = needs.features.find((name) => !can.features.includes(name));
  if (feature !== undefined) return feature;
  if (!can.layouts.includes(needs.layout)) return `${needs.layout} keys`;
  for (const name of ["queries", "keys", "values"] as const) {
    if (!can.dtypes.includes(needs[name])) return `${needs[name]} ${name}`;
  }
  return needs.headDim > can.maxHeadDim ? `head dim ${needs.headDim}` : undefined;
}
