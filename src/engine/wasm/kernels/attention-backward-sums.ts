/**
 * What the parts of a way back have in common, added up in a fixed order.
 */

import { f32, f32x4, i32, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import type { ModuleBuilder } from "../assembler/module.ts";
import { type AttentionBackwardSpec, backwardPitch } from "./attention-backward-scratch.ts";
import { emitExp } from "./vector-math.ts";

/**
 * Adds
 *
 * - `addParts(from, to, partPointers, parts, dk, dv, keysPerEntry)`: dk [B·Tk, Hk, D] and dv [B·Tk, Hk, Dv] of the keys
 *   from … to − 1. Batch entry b and head h have the parts partPointers[b·Hk + h] to the next; a part is a pair of
 *   addresses, of the sums of key 0 and value 0.
 * - `addHeads(from, to, rowSums, lse, sinks, dSinks, dSlopes, rows)`: dSinks and dSlopes [H] += sums over the rows of the
 *   heads from … to − 1. rowSums is f32 [rows][2]: dOut · out, and the gradient of the slope. Addresses may be 0.
 */
export function emitBackwardSums(
  module: ModuleBuilder,
  spec: AttentionBackwardSpec & { readonly kvHeads: number },
): void {
  module.function("addParts", (f) => {
    const from = f.parameter("first", "i32");
    const to = f.parameter("to", "i32");
    const partPointers = f.parameter("partPointers", "i32");
    const parts = f.parameter("parts", "i32");
    const dk = f.parameter("dk", "i32");
    const dv = f.parameter("dv", "i32");
    const keysPerEntry = f.parameter("keysPerEntry", "i32");
    const key = f.local("key", "i32");
    const pointer = f.local("pointer", "i32");
    const pointersEnd = f.local("pointersEnd", "i32");
    const work: SumWork = {
      into: f.local("into", "i32"),
      part: f.local("part", "i32"),
      firstPart: f.local("firstPart", "i32"),
      partsEnd: f.local("partsEnd", "i32"),
      column: f.local("column", "i32"),
      sum: f.local("sum", "v128"),
    };
    const { kvHeads, keyDim, valueDim } = spec;
    for (const [side, out, width] of [[0, dk, keyDim] as const, [4, dv, valueDim] as const]) {
      if (width === 0) continue;
      f.set(work.into, i32.add(out, i32.mul(from, kvHeads * width * 4)));
      f.for(key, from, to, 1, () => {
        const entry = i32.divU(key, keysPerEntry);
        f.set(pointer, i32.add(partPointers, i32.mul(entry, kvHeads * 4)));
        f.set(pointersEnd, i32.add(pointer, kvHeads * 4));
        f.doWhile(
          () => {
            f.set(work.firstPart, i32.add(parts, i32.shl(i32.load(pointer), 3)));
            f.set(work.partsEnd, i32.add(parts, i32.shl(i32.load(pointer, 4), 3)));
            emitSumRow(f, work, i32.mul(key, backwardPitch(width)), side, width);
            f.set(pointer, i32.add(pointer, 4));
          },
          () => i32.ltU(pointer, pointersEnd),
        );
      });
    }
  });

  module.function("addHeads", (f) => {
    const head = f.parameter("head", "i32");
    const to = f.parameter("to", "i32");
    const rowSums = f.parameter("rowSums", "i32");
    const lse = f.parameter("lse", "i32");
    const sinks = f.parameter("sinks", "i32");
    const dSinks = f.parameter("dSinks", "i32");
    const dSlopes = f.parameter("dSlopes", "i32");
    const rows = f.parameter("rows", "i32");
    const row = f.local("row", "i32");
    const at = f.local("at", "i32");
    const total = f.local("total", "f32");
    const value = f.local("value", "f32");
    const power = f.local("power", "v128");
    const [r, n] = f.vectors("work", 2);
    const addTotal = (gradients: Local<"i32">): void => {
      f.set(at, i32.add(gradients, i32.shl(head, 2)));
      f.store("f32.store", at, f32.add(f32.load(at), total));
    };
    f.forAtLeastOnce(head, to, 1, () => {
      f.if(dSinks, () => {
        f.set(total, 0);
        f.for(row, head, rows, spec.heads, () => {
          f.set(value, f32.load(i32.add(lse, i32.shl(row, 2))));
          f.if(f32.gt(value, -Infinity), () => {
            const sink = f32.load(i32.add(sinks, i32.shl(head, 2)));
            emitExp(f, spec, power, f32x4.splat(f32.sub(sink, value)), [r, n]);
            const delta = f32.load(i32.add(rowSums, i32.shl(row, 3)));
            f.set(total, f32.sub(total, f32.mul(f32x4.lane(power, 0), delta)));
          });
        });
        addTotal(dSinks);
      });
      f.if(dSlopes, () => {
        f.set(total, 0);
        f.for(row, head, rows, spec.heads, () => {
          f.set(total, f32.add(total, f32.load(i32.add(rowSums, i32.shl(row, 3)), 4)));
        });
        addTotal(dSlopes);
      });
    });
  });
}

type SumWork = Record<"into" | "part" | "firstPart" | "partsEnd" | "column", Local<"i32">> & {
  readonly sum: Local<"v128">;
};

/**
 * Writes one row of `width` sums to `into`, which moves on.
 *
 * @param offset - of the row in every part
 * @param side - where in a pair of addresses
 */
function emitSumRow(
  f: FunctionBuilder,
  { into, part, firstPart, partsEnd, column, sum }: SumWork,
  offset: ReturnType<typeof i32.mul>,
  side: number,
  width: number,
): void {
  const sumParts = (): void => {
    f.set(sum, f32x4.const(0));
    f.set(part, firstPart);
    f.while(
      () => i32.ltU(part, partsEnd),
      () => {
        f.set(sum, f32x4.add(sum, v128.load(i32.add(i32.add(i32.load(part, side), offset), column))));
        f.set(part, i32.add(part, 8));
      },
    );
  };
  const whole = Math.floor(width / 4) * 16;
  f.for(column, 0, whole, 16, () => {
    sumParts();
    f.storeVector(into, sum);
    f.set(into, i32.add(into, 16));
  });
  if (width % 4 === 0) return;
  f.set(column, whole);
  sumParts();
  for (let lane = 0; lane < width % 4; lane++) f.store("f32.store", into, f32x4.lane(sum, lane), lane * 4);
  f.set(into, i32.add(into, (width % 4) * 4));
}
