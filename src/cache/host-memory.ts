/**
 * Plain arrays on the JavaScript heap, where everything takes effect at once.
 */

import { quantizeKv } from "../attention/index.ts";
import { takeHeads, zeros } from "../tensor.ts";
import type { KvMemory } from "./cache.ts";

/** The memory of caches that belong to no backend. */
export const HOST_MEMORY: KvMemory = {
  allocate: (shape) => zeros("f32", shape),
  copy: (out, x, head) => out.data.set(head === undefined ? x.data : takeHeads(x, head, 1).data),
  release: () => {},
  quantize: (out, x, head) => {
    const { codes, scales } = quantizeKv(head === undefined ? x : takeHeads(x, head, 1), {
      bits: out.bits,
      axis: out.axis,
    });
    out.codes.data.set(codes.data);
    out.scales.data.set(scales.data);
  },
};
