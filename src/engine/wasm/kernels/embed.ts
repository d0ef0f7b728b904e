/**
 * Rows of a table by index.
 */

import { INTERLEAVED_ROWS, PIECE_BYTES, PIECES_APART } from "../../interleaved-rows.ts";
import { i32, v128 } from "../assembler/expression.ts";
import type { FunctionHandle, ModuleBuilder } from "../assembler/module.ts";
import { createWeightReader, emitUnpackRow, type WeightType, weightBytes, weightStep } from "./weights.ts";

/** What the generated code is specialised for. */
export type EmbedSpec = {
  /** Export name; `embed` unless told. */
  readonly name?: string;
  /** C; any, for q8_0 and q4_0 a multiple of 32. */
  readonly width: number;
  /** Bytes between the rows of out; 4·C unless told. */
  readonly outStride?: number;
  readonly weightType: WeightType;
  /** Whether rows are interleaved, see `interleaved-rows.ts`; f32 only. */
  readonly interleaved?: boolean;
};

/**
 * Adds `embed(out, table, scales, ids, from, to)` to a module: rows [from, to) of out [T, C] = table [V, C] at
 * ids i32 [T], which the caller has checked; scales f32 [V] (int8 only).
 */
export function emitEmbed(module: ModuleBuilder, spec: EmbedSpec): FunctionHandle {
  const { width, outStride = 4 * width, weightType, interleaved } = spec;
  return module.function(spec.name ?? "embed", (f) => {
    const out = f.parameter("out", "i32");
    const table = f.parameter("table", "i32");
    const scales = f.parameter("scales", "i32");
    const ids = f.parameter("ids", "i32");
    const from = f.parameter("from", "i32");
    const to = f.parameter("to", "i32");
    const row = f.local("row", "i32");
    const id = f.local("id", "i32");
    const source = f.local("source", "i32");
    const target = f.local("target", "i32");
    const end = f.local("end", "i32");
    const reader = createWeightReader(f, weightType);
    f.for(row, from, to, 1, () => {
      f.set(id, i32.load(i32.add(ids, i32.shl(row, 2))));
      const rowBytes = weightBytes(weightType, width);
      f.set(target, i32.add(out, i32.mul(row, outStride)));
      if (interleaved) {
        f.set(source, i32.add(table, i32.mul(i32.and(id, -INTERLEAVED_ROWS), rowBytes)));
        f.set(source, i32.add(source, i32.mul(i32.and(id, INTERLEAVED_ROWS - 1), PIECE_BYTES)));
        f.set(end, i32.add(target, rowBytes));
        f.doWhile(
          () => {
            f.storeVector(target, v128.load(source));
            f.set(source, i32.add(source, PIECES_APART));
            f.set(target, i32.add(target, PIECE_BYTES));
          },
          () => i32.ltU(target, end),
        );
        return;
      }
      f.set(source, i32.add(table, i32.mul(id, rowBytes)));
      reader.startRow(i32.add(scales, i32.shl(id, 2)));
      const hasRest = width % weightStep(weightType) > 0;
      emitUnpackRow(f, weightType, reader, { source, target, end, count: width, hasRest });
    });
  });
}
