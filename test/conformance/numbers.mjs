/** Reproducible numbers and comparisons, the same in every runtime. */

/** Numbers from −1 to 1. */
export function createRandom(seed) {
  let state = Math.imul(seed + 1, 0x9e3779b1);
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return state / 2 ** 31;
  };
}

/** f32 [length] of them, times a scale. */
export function randomNumbers(length, seed, scale = 1) {
  const next = createRandom(seed);
  return Float32Array.from({ length }, () => scale * next());
}

/** Throws unless every value lies within `tolerance`·(1 + |want|) of its wanted one. */
export function expectClose(what, got, want, tolerance) {
  if (got.length !== want.length) throw new Error(`${what}: got ${got.length} values, wanted ${want.length}`);
  for (let i = 0; i < got.length; i++) {
    if (got[i] === want[i] || Math.abs(got[i] - want[i]) <= tolerance * (1 + Math.abs(want[i]))) continue;
    throw new Error(`${what}: value ${i} is ${got[i]}, wanted ${want[i]} within ${tolerance} relative to 1 + |wanted|`);
  }
}

/** Throws unless two things are the same. */
export function expectSame(what, got, want) {
  if (Object.is(got, want)) return;
  throw new Error(`${what}: got ${JSON.stringify(got)}, wanted ${JSON.stringify(want)}`);
}

/** Throws unless two arrays have the same bits. */
export function expectSameBits(what, got, want) {
  const [a, b] = [got, want].map((x) => new Uint32Array(x.buffer, x.byteOffset, x.length));
  expectSame(`${what}: length`, a.length, b.length);
  const at = a.findIndex((bits, i) => bits !== b[i]);
  if (at >= 0) throw new Error(`${what}: value ${at} is ${got[at]}, wanted ${want[at]} to the last bit`);
}
