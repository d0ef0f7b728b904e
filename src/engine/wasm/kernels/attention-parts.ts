/**
 * Attention over rows in two parts, the older of which hold some of their key channels: the queries' numbers for those
 * channels, and the joining of the two results.
 */

import { f32, f32x4, i32, v128 } from "../assembler/expression.ts";
import type { ModuleBuilder } from "../assembler/module.ts";
import { LOWEST_SCORE } from "./attention-tile.ts";
import { storeFirst } from "./elementwise.ts";
import { emitRowLoop } from "./row-loop.ts";
import { emitExp, type FloatingMode, fma } from "./vector-math.ts";

/** What the choice of numbers is specialised for. */
export type PickSpec = {
  /** Numbers of a row of x. */
  readonly width: number;
  /** Numbers of a row of out. */
  readonly picked: number;
};

/**
 * Adds `pick(out, x, places, from, to)`: rows [from, to) of out [T, picked] = x [T, width] at `places`, i32 [picked].
 */
export function emitPick(module: ModuleBuilder, { width, picked }: PickSpec): void {
  module.function("pick", (f) => {
    const out = f.parameter("out", "i32");
    const x = f.parameter("x", "i32");
    const places = f.parameter("places", "i32");
    const row = f.parameter("row", "i32");
    const to = f.parameter("to", "i32");
    const from = f.local("from", "i32");
    const target = f.local("target", "i32");
    const place = f.local("place", "i32");
    const end = f.local("end", "i32", i32.add(places, 4 * picked));
    f.forAtLeastOnce(row, to, 1, () => {
      f.set(from, i32.add(x, i32.mul(row, 4 * width)));
      f.set(target, i32.add(out, i32.mul(row, 4 * picked)));
      f.set(place, places);
      f.doWhile(
        () => {
          f.store("f32.store", target, f32.load(i32.add(from, i32.shl(i32.load(place), 2))));
          f.set(target, i32.add(target, 4));
          f.set(place, i32.add(place, 4));
        },
        () => i32.ltU(place, end),
      );
    });
  });
}

/** What the joining is specialised for. */
export type JoinSpec = FloatingMode & { readonly heads: number; readonly valueDim: number };

/**
 * Adds `join(out, stats, others, otherStats, sinks, from, to)`: rows [from, to) of out [rows, Dv] become the attention
 * over the keys of both parts.
 *
 * Rows are [Tq, H]; `stats` and `otherStats` are f32 [rows][2] as `attend` writes them without sinks, `sinks` is 0 or
 * f32 [H]. A row without keys is 0.
 */
export function emitJoin(module: ModuleBuilder, spec: JoinSpec): void {
  module.function("join", (f) => {
    const out = f.parameter("out", "i32");
    const stats = f.parameter("stats", "i32");
    const others = f.parameter("others", "i32");
    const otherStats = f.parameter("otherStats", "i32");
    const sinks = f.parameter("sinks", "i32");
    const row = f.parameter("row", "i32");
    const to = f.parameter("to", "i32");
    const own = f.local("own", "i32");
    const their = f.local("their", "i32");
    const [first, second, sink, top, total, result] = f.vectors("share", 6);
    const [a, b] = f.vectors("work", 2);
    f.forAtLeastOnce(row, to, 1, () => {
      f.set(own, i32.add(stats, i32.shl(row, 3)));
      f.set(their, i32.add(otherStats, i32.shl(row, 3)));
      f.set(first, v128.load32Splat(own));
      f.set(second, v128.load32Splat(their));
      f.set(top, f32x4.pmax(f32x4.pmax(first, second), f32x4.const(LOWEST_SCORE)));
      f.set(total, f32x4.const(0));
      f.if(sinks, () => {
        f.set(sink, v128.load32Splat(i32.add(sinks, i32.shl(i32.remU(row, spec.heads), 2))));
        f.set(top, f32x4.pmax(top, sink));
        emitExp(f, spec, total, f32x4.sub(sink, top), [a, b]);
      });
      for (const [share, at] of [
        [first, own],
        [second, their],
      ] as const) {
        emitExp(f, spec, result, f32x4.sub(share, top), [a, b]);
        f.set(share, f32x4.mul(result, v128.load32Splat(at, 4)));
        f.set(total, f32x4.add(total, share));
      }
      // 1 / total, or 0 where there is nothing
      f.set(total, v128.and(f32x4.div(f32x4.const(1), total), f32x4.gt(total, f32x4.const(0))));
      f.set(first, f32x4.mul(first, total));
      f.set(second, f32x4.mul(second, total));
      f.set(own, i32.add(out, i32.mul(row, 4 * spec.valueDim)));
      f.set(their, i32.add(others, i32.mul(row, 4 * spec.valueDim)));
      const loop = { pointers: [[own, 4] as const, [their, 4] as const], count: spec.valueDim };
      emitRowLoop(
        f,
        loop,
        () => f.storeVector(own, fma(spec, v128.load(own), first, f32x4.mul(v128.load(their), second))),
        () => storeFirst(f, own, fma(spec, v128.load32Zero(own), first, f32x4.mul(v128.load32Zero(their), second))),
      );
    });
  });
}
