/** What calls of ours have in common. */
const { causal, sameSegment, slidingWindow } = await import("../../dist/mask/index.js");
const { tensor } = await import("../../dist/tensor.js");

/** Masks, positions and segments of both sides. */
export function layoutOf({ Tq, Tk, window, document }) {
  const positions = Int32Array.from({ length: Tk }, (_, i) => i);
  const segments = document ? positions.map((at) => Math.floor(at / document)) : new Int32Array(Tk);
  return {
    kv: { positions, segments },
    queries: { queryPositions: positions.subarray(Tk - Tq), querySegments: segments.subarray(Tk - Tq) },
    mask: document ? causal().and(sameSegment()) : window ? slidingWindow(window) : causal(),
  };
}

/** Gives tensors back. */
export function release(backend, ...tensors) {
  for (const one of tensors) backend.release(tensor("f32", [one.data.length], one.data));
  return backend.flush();
}
