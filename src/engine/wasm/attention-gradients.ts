/**
 * Gradients of a request on a WASM runtime: the forward pass, for outputs and log-sum-exp, and the way back.
 */

import { type AttentionGradients, type AttentionRequest, planAttention, selectKeys } from "../../attention/index.ts";
import { withDenseKeys } from "../../attention/kv-gather.ts";
import { type AttentionSpec, normalizeAttention, type RealTensor } from "../../attention/spec.ts";
import { CapabilityError, ShapeError } from "../../errors.ts";
import { sizeOf, type Tensor, tensor, toF32 } from "../../tensor.ts";
import { issueAttentionBackward, issueLogSumExp, prepareAttentionBackward } from "./attention-backward-runner.ts";
import { attentionOptions } from "./attention-options.ts";
import { issueAttention, prepareAttention, WASM_CAPABILITIES, wasmTile } from "./attention-runner.ts";
import { lowerScore } from "./attention-score-lowering.ts";
import { slotsOf, storageOf } from "./attention-storage.ts";
import { CallBlocks } from "./call-blocks.ts";
import type { WasmRuntime } from "./runtime.ts";

/**
 * Gradients of Σ dOut · out: `referenceAttentionGradients` in f32.
 *
 * @param request - see AttentionRequest; keys and values are widened to f32, gradients of a view are in slot order
 * @param dOut - [B, Tq, H, Dv] cotangent of the output
 * @param workers - how many the work is dealt out to; those of the runtime when absent
 * @throws ShapeError when `dOut` has not the output's shape
 * @throws CapabilityError for custom score modifiers, whose gradient is not defined
 */
export async function wasmAttentionGradients(
  runtime: WasmRuntime,
  request: AttentionRequest,
  dOut: RealTensor,
  workers: number = runtime.workers,
): Promise<AttentionGradients<"f32">> {
  const dense = withDenseKeys(request);
  const { select } = dense;
  const chosen = select === undefined ? dense : { ...dense, select: selectKeys({ ...dense, select }) };
  const spec = normalizeAttention(chosen);
  checkGradients(spec, dOut);
  const { B, Tq, H, Hk, D } = spec.dims;
  const plan = planAttention(chosen, {
    capabilities: WASM_CAPABILITIES,
    workers,
    tile: wasmTile((Tq * H) / Hk || 1, D),
  });

  const memory = new CallBlocks(runtime);
  try {
    const { q, k, v, sinks, bias, alibiSlopes, softcap, scale } = spec;
    const layout = {
      keys: storageOf({ shape: k.shape }),
      values: storageOf({ shape: v.shape }),
      slots: slotsOf(undefined, spec.dims),
    };
    let biasAt = 0;
    const lowered = lowerScore(spec, (values) => {
      biasAt = memory.place(values);
      return biasAt;
    });
    const { score, dropout, rowColumns, keyColumns } = lowered;
    const shared = { ...(score && { score }), ...(dropout && { dropout: true }), rowColumns, keyColumns };
    const forward = prepareAttention(runtime, memory, plan, layout, shared);
    const backward = prepareAttentionBackward(runtime, memory, plan, layout, {
      ...shared,
      ...(softcap !== undefined && { softcap }),
      wants: { bias: bias !== undefined, slopes: alibiSlopes !== undefined },
      workers,
    });
    const rows = B * Tq * H;
    const stats = memory.take(rows * 8);
    const lse = memory.take(rows * 4);
    const [dq, dk, dv, out] = [q, k, v, dOut].map((t) => memory.take(t.data.length * 4));
    const [dSinks, dSlopes] = [sinks, alibiSlopes].map((values) => (values ? memory.take(H * 4) : 0));
    const dBias = bias ? memory.take(bias.values.length * 4) : 0;
    const [queries, keys, values, dOutAt] = [q, k, v, dOut].map((t) => memory.locate(toF32(t)));
    const inputs = {
      ...{ q: queries, keys, values, scale },
      sinks: sinks ? memory.place(Float32Array.from(sinks)) : 0,
      options: memory.place(attentionOptions((numbers) => memory.locate(numbers), { keys: k, values: v }, lowered)),
    };
    issueAttention(runtime, forward, { ...inputs, out, stats });
    issueLogSumExp(runtime, { heads: H, rows, stats, lse, sinks: inputs.sinks });
    issueAttentionBackward(runtime, backward, {
      ...inputs,
      ...{ out, lse, dOut: dOutAt, dq, dk, dv, dSinks, dSlopes, biasShift: dBias - biasAt },
    });
    await runtime.flush();
    const read = (address: number, shape: readonly number[]): Tensor<"f32"> =>
      tensor("f32", shape, runtime.memory.view("f32", address, sizeOf(shape)).slice());
    return {
      dq: read(dq, q.shape),
      dk: read(dk, k.shape),
      dv: read(dv, v.shape),
      ...(request.bias && { dbias: read(dBias, request.bias.shape) }),
      ...(sinks && { dsinks: read(dSinks, [H]) }),
      ...(alibiSlopes && { dslopes: read(dSlopes, [H]) }),
    };
  } finally {
    memory.release();
  }
}

function checkGradients({ q, v, scoreModifier }: AttentionSpec, dOut: RealTensor): void {
  if (scoreModifier) {
    throw new CapabilityError("attentionGradients", "no custom score modifier", {
      scoreModifier: scoreModifier.toString(),
    });
  }
  const out = [...q.shape.slice(0, -1), v.shape.at(-1) as number];
  if (dOut.shape.join() !== out.join()) {
    throw new ShapeError("attentionGradients", "dOut must have the shape of the output", { dOut: dOut.shape, out });
  }
}
