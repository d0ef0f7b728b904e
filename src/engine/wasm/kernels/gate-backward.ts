/**
 * The gradients of a gated block: out = a(gate)·up, so that dUp = dOut·a(gate) and dGate = dOut·up·a'(gate). Every
 * activation is x times a share s of it from 0 to 1:
 *
 *     silu      s = 1/(1 + exp(−x))                        a' = s + x·s·(1 − s)
 *     gelu      s = Φ(x)                                   a' = s + x·exp(−x²/2)/√(2π)
 *     geluTanh  s = 1/(1 + exp(−p(x))), p cubic            a' = s + x·s·(1 − s)·p'(x)
 */

import type { Activation } from "../../backend.ts";
import { type Expression, f32x4, i32, type V128, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import type { FunctionHandle, ModuleBuilder } from "../assembler/module.ts";
import { GELU_TANH, storeFirst } from "./elementwise.ts";
import { emitRowLoop } from "./row-loop.ts";
import { emitExp, emitNormalCdf, emitSigmoid, type FloatingMode, fma } from "./vector-math.ts";

/**
 * Adds `gateBackward(dGate, dUp, dOut, gate, up, from, to)` to a module: elements [from, to). dGate and dUp may be
 * gate and up.
 */
export function emitGateBackward(
  module: ModuleBuilder,
  spec: FloatingMode & { readonly name?: string; readonly activation: Activation },
): FunctionHandle {
  return module.function(spec.name ?? "gateBackward", (f) => {
    const addresses = ["dGate", "dUp", "dOut", "gate", "up"].map((parameter) => f.parameter(parameter, "i32"));
    const [dGate, dUp, dOut, gate, up] = addresses;
    const from = f.parameter("from", "i32");
    const to = f.parameter("to", "i32");
    const [x, share, slope, g, u] = ["x", "share", "slope", "g", "u"].map((local) => f.local(local, "v128"));
    const emitSlope = SLOPES[spec.activation](f, spec, { x, share, slope });
    const emit = (load: (at: Expression<"i32">) => V128, store: (at: Expression<"i32">, value: V128) => void): void => {
      f.set(x, load(gate));
      f.set(u, load(up));
      f.set(g, load(dOut));
      emitSlope();
      store(dUp, f32x4.mul(g, f32x4.mul(x, share)));
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

type SlopeParts = { readonly x: Local<"v128">; readonly share: Local<"v128">; readonly slope: Local<"v128"> };

/** Emitters of code that sets `share` and `slope` by `x`. */
const SLOPES: Readonly<Record<Activation, (f: FunctionBuilder, mode: FloatingMode, parts: SlopeParts) => () => void>> =
  {
    silu: (f, mode, { x, share, slope }) => {
      const [r, n] = f.vectors("work", 2);
      return () => {
        emitSigmoid(f, mode, share, x, [r, n]);
        f.set(slope, fma(mode, f32x4.mul(x, share), f32x4.sub(f.constant(1), share), share));
      };
    },
    gelu: (f, mode, { x, share, slope }) => {
      const [value, t, r, n] = f.vectors("work", 4);
      return () => {
        emitNormalCdf(f, mode, share, x, [value, t, r, n]);
        emitExp(f, mode, slope, f32x4.mul(f32x4.mul(x, x), f.constant(-0.5)), [r, n]);
        const density = f32x4.mul(slope, f.constant(1 / Math.sqrt(2 * Math.PI)));
        f.set(slope, fma(mode, x, density, share));
      };
    },
    geluTanh: (f, mode, { x, share, slope }) => {
      const [bounded, square, value, r, n] = f.vectors("work", 5);
      const [linear, cubic] = GELU_TANH;
      return () => {
        // Beyond, s is 0 or 1 and the slope with it; within, no power overflows.
        f.set(bounded, f32x4.pmin(f32x4.pmax(x, f.constant(-BOUND)), f.constant(BOUND)));
        f.set(square, f32x4.mul(bounded, bounded));
        f.set(value, f32x4.mul(bounded, fma(mode, square, f.constant(cubic), f.constant(linear))));
        emitSigmoid(f, mode, share, value, [r, n]);
        f.set(slope, fma(mode, square, f.constant(3 * cubic), f.constant(linear))); // p'
        const part = f32x4.mul(f32x4.mul(bounded, share), f32x4.sub(f.constant(1), share));
        f.set(slope, fma(mode, part, slope, share));
      };
    },
  };

const BOUND = 16;
