/**
 * The gradient of a table of embeddings.
 */

import { f32, f32x4, i32, v128 } from "../assembler/expression.ts";
import type { FunctionHandle, ModuleBuilder } from "../assembler/module.ts";
import { emitRowLoop } from "./row-loop.ts";

/**
 * Adds `embedBackward(dTable, dOut, ids, tokens, width, from, to)` to a module: columns [from, to) of
 * dTable f32 [V][width] += rows of dOut f32 [tokens][width] at ids i32 [tokens], which the caller has checked. Columns are
 * dealt out, not tokens, so that a repeated token is summed in one order.
 */
export function emitEmbedBackward(module: ModuleBuilder, name = "embedBackward"): FunctionHandle {
  return module.function(name, (f) => {
    const [dTable, dOut, ids, tokens, width, from, to] = [
      ...["dTable", "dOut", "ids", "tokens", "width", "from", "to"].map((parameter) => f.parameter(parameter, "i32")),
    ];
    const t = f.local("t", "i32");
    const source = f.local("source", "i32");
    const target = f.local("target", "i32");
    f.for(t, 0, tokens, 1, () => {
      const place = (row: typeof t | ReturnType<typeof i32.load>) => i32.shl(i32.add(i32.mul(row, width), from), 2);
      f.set(source, i32.add(dOut, place(t)));
      f.set(target, i32.add(dTable, place(i32.load(i32.add(ids, i32.shl(t, 2))))));
      emitRowLoop(
        f,
        {
          pointers: [
            [source, 4],
            [target, 4],
          ],
          count: i32.sub(to, from),
        },
        () => f.storeVector(target, f32x4.add(v128.load(target), v128.load(source))),
        () => f.store("f32.store", target, f32.add(f32.load(target), f32.load(source))),
      );
    });
  });
}
