/**
 * Kernels that show what a core can do at most from WebAssembly: multiply-add in registers, and reading memory.
 */

const wasm = "../dist/engine/wasm";
const { ModuleBuilder } = await import(`${wasm}/assembler/module.js`);
const { f32x4, i32, v128 } = await import(`${wasm}/assembler/expression.js`);
const { fma } = await import(`${wasm}/kernels/vector-math.js`);

/**
 * The functions of a module on this memory.
 *
 * @param {WebAssembly.Memory} memory
 * @param {(module: any) => void} emit
 * @returns {Record<string, (...args: number[]) => void>}
 */
export function compile(memory, emit) {
  const module = new ModuleBuilder({ minimumPages: 1, maximumPages: 65536, shared: false });
  emit(module);
  return /** @type {any} */ (
    new WebAssembly.Instance(new WebAssembly.Module(module.toBytes()), { env: { memory } }).exports
  );
}

/** Twelve independent chains of multiply-add, in registers. */
function emitPeak(module, relaxed) {
  module.function("peak", (f) => {
    const turns = f.parameter("turns", "i32");
    const sums = f.vectors("sum", 12);
    const x = f.local("x", "v128", v128.load(0));
    f.doWhile(
      () => {
        for (const sum of sums) f.set(sum, fma({ relaxed }, x, x, sum));
        f.set(turns, i32.sub(turns, 1));
      },
      () => turns,
    );
    for (const [i, sum] of sums.entries()) f.storeVector(0, sum, 16 * i);
  });
}

/** Reads memory from start to end, a line of 64 bytes at a time. */
function emitRead(module) {
  module.function("read", (f) => {
    const at = f.parameter("at", "i32");
    const end = f.parameter("end", "i32");
    const sums = f.vectors("sum", 4);
    f.doWhile(
      () => {
        for (const [i, sum] of sums.entries()) f.set(sum, f32x4.add(sum, v128.load(at, 16 * i)));
        f.set(at, i32.add(at, 64));
      },
      () => i32.ltU(at, end),
    );
    for (const [i, sum] of sums.entries()) f.storeVector(0, sum, 16 * i);
  });
}

/** Reads 512 bytes of every 4 KiB, a line of 64 bytes at a time: one head of eight in a cache [T, 8, 128]. */
function emitReadHead(module) {
  module.function("readHead", (f) => {
    const at = f.parameter("at", "i32");
    const end = f.parameter("end", "i32");
    const sums = f.vectors("sum", 4);
    f.doWhile(
      () => {
        for (let line = 0; line < 8; line++) {
          for (const [i, sum] of sums.entries()) f.set(sum, f32x4.add(sum, v128.load(at, 64 * line + 16 * i)));
        }
        f.set(at, i32.add(at, 4096));
      },
      () => i32.ltU(at, end),
    );
    for (const [i, sum] of sums.entries()) f.storeVector(0, sum, 16 * i);
  });
}

/**
 * The limits on this memory, which is taken to hold no NaN, infinity or subnormal number.
 *
 * @param {WebAssembly.Memory} memory
 * @param {{relaxed: boolean, from: number, to: number}} options bytes from..to are read
 */
export function createLimits(memory, { relaxed, from, to }) {
  const turns = 300_000;
  const { peak } = compile(memory, (module) => emitPeak(module, relaxed));
  const { read } = compile(memory, emitRead);
  const { readHead } = compile(memory, emitReadHead);
  return {
    peak: { flop: 12 * 8 * turns, run: () => peak(turns) },
    read: { bytes: to - from, run: () => read(from, to) },
    heads: {
      bytes: to - from,
      run: () => {
        for (let head = 0; head < 8; head++) readHead(from + 512 * head, to);
      },
    },
  };
}
