/**
 * The gradients of a gated block: out = silu(gate)·up, with silu(x) = x·s, s = 1/(1 + exp(−x)), and
 * silu'(x) = s + x·s·(1 − s).
 */

import { type Expression, f32x4, i32, type V128, v128 } from "../assembler/expression.ts";
import type { FunctionHandle, ModuleBuilder } from "../assembler/module.ts";
import { storeFirst } from "./elementwise.ts";
import { emitRowLoop } from "./row-loop.ts";
import { emitSigmoid, type FloatingMode, fma } from "./vector-math.ts";

/**
 * Adds `gateBackward(dGate, dUp, dOut, gate, up, from, to)` to a module: elements [from, to). dGate and dUp may be
 * gate and up.
 */
export function emitGateBackward(module: ModuleBuilder, mode: FloatingMode, name = "gateBackward"): FunctionHandle {
  return module.function(name, (f) => {
    const addresses = ["dGate", "dUp", "dOut", "gate", "up"].map((parameter) => f.parameter(parameter, "i32"));
    const [dGate, dUp, dOut, gate, up] = addresses;
    const from = f.parameter("from", "i32");
    const to = f.parameter("to", "i32");
    const [x, s, g, u, silu, r, n] = ["x", "s", "g", "u", "silu", "r", "n"].map((local) => f.local(local, "v128"));
    const emit = (load: (at: Expression<"i32">) => V128, store: (at: Expression<"i32">, value: V128) => void): void => {
      f.set(x, load(gate));
      f.set(u, load(up));
      f.set(g, load(dOut));
      emitSigmoid(f, mode, s, x, [r, n]);
      f.set(silu, f32x4.mul(x, s));
      store(dUp, f32x4.mul(g, silu));
      const slope = fma(mode, silu, f32x4.sub(f.constant(1), s), s);
      store(dGate, f32x4.mul(f32x4.mul(g, u), slope));
    };
    for (const address of addresses) f.set(address, i32.add(address, i32.shl(from, 2)));
    emitRowLoop(
      f,
      { pointers: addresses.map((address) => [address, 4] as const), count: i32.sub(to, from) },
      () => emit(v128.load, (at, value) => f.storeVector(at, value)),
      () => emit(v128.load32Zero, (at, value) => storeFirst(f, at, value)),
    );
  });
}
