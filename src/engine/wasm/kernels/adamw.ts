/**
 * One step of AdamW.
 *
 * @see https://arxiv.org/abs/1711.05101 Decoupled Weight Decay Regularization, algorithm 2
 */

import { type Expression, f32x4, i32, type V128, v128 } from "../assembler/expression.ts";
import type { FunctionHandle, ModuleBuilder } from "../assembler/module.ts";
import { storeFirst } from "./elementwise.ts";
import { emitRowLoop } from "./row-loop.ts";
import { type FloatingMode, fma } from "./vector-math.ts";

/** The numbers of a step, in the order in which the kernel takes them. */
export const ADAMW_NUMBERS = [
  /** β1, and (1 − β1)·gradientScale: m ← β1·m + (1 − β1)·gradientScale·g. */
  "keepMean",
  "addMean",
  /** β2, and (1 − β2)·gradientScale²: v ← β2·v + (1 − β2)·(gradientScale·g)². */
  "keepSquare",
  "addSquare",
  /** lr/(1 − β1^step), 1/(1 − β2^step), ε and lr·weightDecay: w ← w − rate·m/(sqrt(v·correction) + ε) − decay·w. */
  "rate",
  "correction",
  "epsilon",
  "decay",
] as const;

/**
 * Adds `adamW(weight, gradient, mean, square, from, to, …)` to a module: elements [from, to) of all four, then the
 * numbers of `ADAMW_NUMBERS`, f32.
 */
export function emitAdamW(module: ModuleBuilder, mode: FloatingMode, name = "adamW"): FunctionHandle {
  return module.function(name, (f) => {
    const addresses = ["weight", "gradient", "mean", "square"].map((parameter) => f.parameter(parameter, "i32"));
    const [weight, gradient, mean, square] = addresses;
    const from = f.parameter("from", "i32");
    const to = f.parameter("to", "i32");
    const parameters = ADAMW_NUMBERS.map((parameter) => f.parameter(parameter, "f32"));
    const [keepMean, addMean, keepSquare, addSquare, rate, correction, epsilon, decay] = parameters.map((one) =>
      f.local(`${one.node.name}Four`, "v128", f32x4.splat(one)),
    );
    const [g, m, v, w] = ["g", "m", "v", "w"].map((local) => f.local(local, "v128"));
    const emit = (load: (at: Expression<"i32">) => V128, store: (at: Expression<"i32">, value: V128) => void): void => {
      f.set(g, load(gradient));
      f.set(m, fma(mode, load(mean), keepMean, f32x4.mul(g, addMean)));
      store(mean, m);
      f.set(v, fma(mode, load(square), keepSquare, f32x4.mul(f32x4.mul(g, g), addSquare)));
      store(square, v);
      f.set(w, load(weight));
      f.set(v, f32x4.add(f32x4.sqrt(f32x4.mul(v, correction)), epsilon));
      f.set(m, fma(mode, w, decay, f32x4.div(f32x4.mul(m, rate), v)));
      store(weight, f32x4.sub(w, m));
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
