import { describe, expect, test } from "vitest";
import { detectFeatures } from "../features.ts";
import { apply, type Expression, f32, f32x4, i16x8, i32, i32x4, shuffleBytes, v128 } from "./expression.ts";
import type { FunctionBuilder } from "./function.ts";
import { type Instruction, instruction, instructions, signedLeb, unsignedLeb, type ValueType } from "./instructions.ts";
import { ModuleBuilder } from "./module.ts";

const features = detectFeatures();

function moduleOf(build: (f: FunctionBuilder) => void, shared = false): ModuleBuilder {
  const module = new ModuleBuilder({ minimumPages: 1, maximumPages: 1, shared });
  module.function("run", build);
  return module;
}

/** Runs a function without parameters on a memory that starts with `words`, and gives back its first words. */
function run(words: readonly number[], build: (f: FunctionBuilder) => void, length = 4): number[] {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1 });
  const view = new Int32Array(memory.buffer);
  view.set(words);
  const instance = new WebAssembly.Instance(new WebAssembly.Module(moduleOf(build).toBytes()), { env: { memory } });
  (instance.exports.run as () => void)();
  return [...view.subarray(0, length)];
}

describe("LEB128", () => {
  test.each([
    [0, [0x00]],
    [127, [0x7f]],
    [128, [0x80, 0x01]],
    [624485, [0xe5, 0x8e, 0x26]],
    [2 ** 32 - 1, [0xff, 0xff, 0xff, 0xff, 0x0f]],
  ])("unsigned %i", (value, bytes) => {
    expect(unsignedLeb(value)).toEqual(bytes);
  });

  test.each([
    [0, [0x00]],
    [63, [0x3f]],
    [64, [0xc0, 0x00]],
    [-1, [0x7f]],
    [-64, [0x40]],
    [-65, [0xbf, 0x7f]],
    [-123456, [0xc0, 0xbb, 0x78]],
    [-(2 ** 31), [0x80, 0x80, 0x80, 0x80, 0x78]],
    [2 ** 31 - 1, [0xff, 0xff, 0xff, 0xff, 0x07]],
  ])("signed %i", (value, bytes) => {
    expect(signedLeb(value)).toEqual(bytes);
  });
});

describe("instructions", () => {
  const operand: Record<ValueType, () => Expression> = {
    i32: () => i32.const(0),
    i64: () => apply("i64.load", [0], [0]),
    f32: () => f32.const(0),
    f64: () => apply("f64.const", [], [0]),
    v128: () => v128.words(0, 0, 0, 0),
  };
  const immediate = ({ immediate, result }: Instruction): number[] => {
    if (immediate === "shuffle") return new Array<number>(16).fill(0);
    if (immediate === "memory-lane") return [0, 0];
    if (immediate === "const" && result === "v128") return [0, 0, 0, 0];
    return immediate === "none" ? [] : [0];
  };
  const available = instructions().filter(({ name }) => features.relaxed || !name.includes("relaxed"));

  test.each(available)("$name validates with the types of the table", (entry) => {
    const args = entry.operands.map((type) => operand[type]());
    const module = moduleOf((f) => f.run(apply(entry.name, args, immediate(entry))), true);
    expect(WebAssembly.validate(module.toBytes())).toBe(true);
  });

  test("an unknown one is refused by name", () => {
    expect(() => instruction("i32.nonsense")).toThrow("assembler: no instruction i32.nonsense");
  });

  const a = -7;
  const b = 3;
  test.each([
    ["add", -4],
    ["sub", -10],
    ["mul", -21],
    ["div_s", -2],
    ["div_u", Math.floor((2 ** 32 - 7) / 3)],
    ["rem_s", -1],
    ["rem_u", (2 ** 32 - 7) % 3],
    ["and", 1],
    ["or", -5],
    ["xor", -6],
    ["shl", -56],
    ["shr_s", -1],
    ["shr_u", 536870911],
    ["eq", 0],
    ["ne", 1],
    ["lt_s", 1],
    ["lt_u", 0],
    ["gt_s", 0],
    ["gt_u", 1],
    ["le_s", 1],
    ["le_u", 0],
    ["ge_s", 0],
    ["ge_u", 1],
  ])("i32.%s of -7 and 3 is %i", (name, want) => {
    const got = run([a, b], (f) => f.store("i32.store", 0, apply(`i32.${name}`, [i32.load(0), i32.load(4)], [])), 1);
    expect(got).toEqual([want]);
  });

  test.each([
    ["f32x4.add", (x: number, y: number) => x + y],
    ["f32x4.sub", (x: number, y: number) => x - y],
    ["f32x4.mul", (x: number, y: number) => x * y],
    ["f32x4.div", (x: number, y: number) => Math.fround(x / y)],
    ["f32x4.min", Math.min],
    ["f32x4.max", Math.max],
    ["f32x4.pmin", (x: number, y: number) => (y < x ? y : x)],
    ["f32x4.pmax", (x: number, y: number) => (x < y ? y : x)],
  ] as const)("%s works lane by lane", (name, want) => {
    const [x, y] = [
      [1.5, -2, 8, 0.25],
      [2, -3, -0.5, 4],
    ];
    const words = new Int32Array(Float32Array.from([...x, ...y]).buffer);
    const got = run([...words], (f) => f.storeVector(0, apply(name, [v128.load(0), v128.load(16)])));
    expect([...new Float32Array(Int32Array.from(got).buffer)]).toEqual(x.map((v, i) => want(v, y[i])));
  });

  test.each([
    ["i32x4.add", (x: number, y: number) => (x + y) | 0],
    ["i32x4.sub", (x: number, y: number) => (x - y) | 0],
    ["i32x4.mul", Math.imul],
    ["i32x4.min_s", Math.min],
    ["i32x4.gt_s", (x: number, y: number) => (x > y ? -1 : 0)],
    ["i32x4.lt_s", (x: number, y: number) => (x < y ? -1 : 0)],
    ["i32x4.eq", (x: number, y: number) => (x === y ? -1 : 0)],
    ["v128.and", (x: number, y: number) => x & y],
    ["v128.or", (x: number, y: number) => x | y],
    ["v128.xor", (x: number, y: number) => x ^ y],
    ["v128.andnot", (x: number, y: number) => x & ~y],
  ] as const)("%s works lane by lane", (name, want) => {
    const [x, y] = [
      [5, -2, 2 ** 31 - 1, 12],
      [3, -9, 7, 12],
    ];
    const got = run([...x, ...y], (f) => f.storeVector(0, apply(name, [v128.load(0), v128.load(16)])));
    expect(got).toEqual(x.map((v, i) => want(v, y[i])));
  });

  test("dot products of i16 add neighbours; shifts of i16 stay within them", () => {
    const pair = (low: number, high: number): number => (low & 0xffff) | (high << 16);
    const words = [
      pair(3, -5),
      pair(-32768, -32768),
      pair(7, 0),
      pair(0, 2),
      ...[2, 1, 1, 1].map((x) => pair(x, 11 * x)),
    ];
    words[5] = pair(-32768, 32767);
    expect(run(words, (f) => f.storeVector(0, i32x4.dotI16(v128.load(0), v128.load(16))))).toEqual([
      3 * 2 - 5 * 22,
      32768 ** 2 - 32768 * 32767,
      7,
      22,
    ]);
    const shifted = run([pair(-1, 0x1234), 0, 0, 0], (f) => f.storeVector(0, i16x8.shrU(v128.load(0), 4)));
    expect(shifted[0]).toBe(pair(0xfff, 0x123));
  });

  test("shuffles pick lanes of both vectors", () => {
    const words = [1, 2, 3, 4, 5, 6, 7, 8];
    const [x, y] = [v128.load(0), v128.load(16)];
    expect(run(words, (f) => f.storeVector(0, f32x4.shuffle(x, y, 3, 4, 0, 7)))).toEqual([4, 5, 1, 8]);
    const bytes = [3, 2, 1, 0, 16, 17, 18, 19, 28, 29, 30, 31, 0, 1, 2, 3];
    expect(run(words, (f) => f.storeVector(0, shuffleBytes(x, y, bytes)))).toEqual([1 << 24, 5, 8, 1]);
  });

  test("lanes are read and replaced, constants are exact", () => {
    const got = run([1, 2, 3, 4], (f) => {
      f.storeVector(0, i32x4.replaceLane(v128.load(0), 2, i32x4.lane(v128.words(9, -8, 7, 6), 1)));
    });
    expect(got).toEqual([1, 2, -8, 4]);
    const floats = run([], (f) => f.storeVector(0, f32x4.const(0.1)));
    expect([...new Float32Array(Int32Array.from(floats).buffer)]).toEqual(new Array(4).fill(Math.fround(0.1)));
  });

  test("memory.copy copies between overlapping areas", () => {
    const got = run([1, 2, 3, 4], (f) => f.copyMemory(4, 0, 12));
    expect(got).toEqual([1, 1, 2, 3]);
  });
});

describe("functions", () => {
  test("if takes one of its branches", () => {
    const branch = (condition: number): number[] =>
      run(
        [condition],
        (f) =>
          f.if(
            i32.load(0),
            () => f.store("i32.store", 0, 10),
            () => f.store("i32.store", 0, 20),
          ),
        1,
      );
    expect([branch(1), branch(0)]).toEqual([[10], [20]]);
  });

  test.each([
    [0, 0],
    [1, 0],
    [5, 10],
    [-3, 0],
  ])("for below %i sums to %i", (limit, want) => {
    const got = run(
      [limit],
      (f) => {
        const i = f.local("i", "i32");
        const sum = f.local("sum", "i32");
        f.for(i, 0, i32.load(0), 1, () => f.set(sum, i32.add(sum, i)));
        f.store("i32.store", 0, sum);
      },
      1,
    );
    expect(got).toEqual([want]);
  });

  test("while runs while its condition holds, doWhile at least once; loops nest", () => {
    const got = run(
      [],
      (f) => {
        const i = f.local("i", "i32");
        const turns = f.local("turns", "i32");
        f.while(
          () => i32.ltS(i, 3),
          () => {
            f.set(i, i32.add(i, 1));
            const j = f.local("j", "i32");
            f.set(j, 0);
            f.doWhile(
              () => {
                f.set(turns, i32.add(turns, 1));
                f.set(j, i32.add(j, 1));
              },
              () => i32.ltS(j, i),
            );
          },
        );
        f.while(
          () => i32.ltS(i, 3),
          () => f.set(turns, 100),
        );
        f.store("i32.store", 0, turns);
      },
      1,
    );
    expect(got).toEqual([1 + 2 + 3]);
  });

  test("parameters, and functions that are not exported", () => {
    const module = new ModuleBuilder({ minimumPages: 1, maximumPages: 1, shared: false });
    const handle = module.function("store", (f) => {
      const at = f.parameter("at", "i32");
      const value = f.parameter("value", "f32");
      f.store("f32.store", at, f32.mul(value, 2), 4);
    });
    module.function("hidden", (f) => f.comment("nothing"), false);
    const memory = new WebAssembly.Memory({ initial: 1, maximum: 1 });
    const instance = new WebAssembly.Instance(new WebAssembly.Module(module.toBytes()), { env: { memory } });
    (instance.exports.store as (at: number, value: number) => void)(8, 1.25);
    expect(new Float32Array(memory.buffer)[3]).toBe(2.5);
    expect(Object.keys(instance.exports)).toEqual(["store"]);
    expect(handle).toMatchObject({ name: "store", index: 0, parameters: ["i32", "f32"] });
  });

  test("a function calls another one, with the arguments it takes", () => {
    const module = new ModuleBuilder({ minimumPages: 1, maximumPages: 1, shared: false });
    const hidden = module.function(
      "hidden",
      (f) => {
        const at = f.parameter("at", "i32");
        const value = f.parameter("value", "f32");
        f.store("f32.store", at, f32.add(value, f32.load(at)));
      },
      false,
    );
    module.function("twice", (f) => {
      const at = f.parameter("at", "i32");
      f.call(hidden, [at, 1.5]);
      f.call(hidden, [at, f32.load(at)]);
      expect(() => f.call(hidden, [at])).toThrow("assembler: hidden takes (i32 f32); got (i32)");
    });
    const memory = new WebAssembly.Memory({ initial: 1, maximum: 1 });
    const instance = new WebAssembly.Instance(new WebAssembly.Module(module.toBytes()), { env: { memory } });
    (instance.exports.twice as (at: number) => void)(8);
    expect(new Float32Array(memory.buffer)[2]).toBe(3);
    expect(module.toText()).toContain("hidden(at, f32.const[1.5]())");
  });

  test("a vector constant is set once, before everything else", () => {
    const build = (f: FunctionBuilder): void => {
      f.storeVector(0, f32x4.add(v128.load(0), f.constant(0.5)));
      f.storeVector(0, f32x4.add(v128.load(0), f.constant(0.5)));
    };
    const text = moduleOf(build).toText();
    expect(text.split("\n")[1]).toBe("  0.5 = f32x4.splat(f32.const[0.5]())");
    expect(text.split("splat")).toHaveLength(2);
    const words = new Int32Array(Float32Array.of(1, 2, 3, 4).buffer);
    expect([...new Float32Array(Int32Array.from(run([...words], build)).buffer)]).toEqual([2, 3, 4, 5]);
  });

  test("sums and products of constants are constants", () => {
    const text = moduleOf((f) => f.store("i32.store", i32.add(i32.mul(3, 5), 0), i32.add(i32.load(0), 0))).toText();
    expect(text).toBe("run()\n  i32.store(15, i32.load(0))\n");
  });
});

describe("mistakes of an emitter", () => {
  test("an operand of another type", () => {
    expect(() => f32x4.add(v128.load(0), i32.const(1) as never)).toThrow(
      "assembler: f32x4.add takes (v128 v128); got (v128 i32)",
    );
  });

  test("a local set to another type", () => {
    const build = (f: FunctionBuilder): void => f.set(f.local("x", "f32"), i32.const(1) as never);
    expect(() => moduleOf(build)).toThrow("assembler: x is f32; got i32");
  });

  test("a parameter after a local", () => {
    const build = (f: FunctionBuilder): void => {
      f.local("x", "i32");
      f.parameter("y", "i32");
    };
    expect(() => moduleOf(build)).toThrow("assembler: parameters come before locals");
  });
});

test("the listing shows structure, offsets, lanes and comments", () => {
  const module = moduleOf((f) => {
    const at = f.parameter("at", "i32");
    const x = f.local("x", "v128", v128.load(at, 16));
    f.comment("every row");
    f.while(
      () => i32.ltU(at, 64),
      () => {
        f.store("f32.store", at, f32x4.lane(x, 2), 8);
        f.set(at, i32.add(at, 4));
      },
    );
    f.if(
      i32.eqz(at),
      () => f.storeVector(at, x),
      () => f.store("v128.store64_lane", at, x),
    );
  });
  expect(module.toText()).toMatchInlineSnapshot(`
    "run(at: i32)
      x = v128.load(at + 16)
      ;; every row
      if i32.lt_u(at, 64)
        loop
          f32.store(at + 8, f32x4.extract_lane[2](x))
          at = i32.add(at, 4)
          branch 0 if i32.lt_u(at, 64)
      if i32.eqz(at)
        v128.store(at, x)
      else
        v128.store64_lane(at, x)
    "
  `);
});
