/**
 * A plan that stays in the engine's memory, with room for queries and results, so that running it again only costs the
 * kernel and a few microseconds.
 */

import type { AttentionPlan, AttentionRequest, KvStore, ReferenceOutput } from "../../attention/index.ts";
import type { AttentionSpec } from "../../attention/spec.ts";
import { attentionOptions, numbersOf } from "./attention-options.ts";
import { type ResultShape, readResults } from "./attention-results.ts";
import { issueAttention, type PreparedAttention, prepareAttention } from "./attention-runner.ts";
import { lowerScore } from "./attention-score-lowering.ts";
import { slotsOf, storageOf } from "./attention-storage.ts";
import { CallBlocks } from "./call-blocks.ts";
import { OPTIONS_BYTES } from "./kernels/attention-tile.ts";
import { RequestKey } from "./request-key.ts";
import type { WasmRuntime } from "./runtime.ts";

/** Room for one call that runs. */
type Room = {
  readonly q: Numbers;
  readonly sinks: Numbers;
  readonly out: Numbers;
  readonly stats: Numbers;
  readonly options: number;
};

type Numbers = { readonly address: number; readonly data: Float32Array };

/** One plan, for requests that differ in nothing but numbers. */
export class PreparedRun {
  readonly #runtime: WasmRuntime;
  readonly #key: RequestKey;
  readonly #shape: ResultShape;
  readonly #blocks: CallBlocks;
  readonly #prepared: PreparedAttention;
  readonly #idle: Room[] = [];
  #running = 0;
  #released = false;

  /**
   * @param request - one that `RequestKey` takes and the plan was made for
   * @param spec - the same, checked
   */
  constructor(runtime: WasmRuntime, plan: AttentionPlan, request: AttentionRequest, spec: AttentionSpec) {
    this.#runtime = runtime;
    this.#key = new RequestKey(request);
    this.#shape = { dims: plan.dims, batched: spec.batched };
    this.#blocks = new CallBlocks(runtime);
    try {
      const { keys, values } = request.kv ?? { keys: spec.k, values: spec.v };
      const layout = { keys: storageOf(keys), values: storageOf(values), slots: slotsOf(request.kv, plan.dims) };
      const { score, rowColumns, keyColumns } = lowerScore(spec, () => 0);
      const options = { ...(score && { score }), rowColumns, keyColumns };
      this.#prepared = prepareAttention(runtime, this.#blocks, plan, layout, options);
    } catch (error) {
      this.#blocks.release();
      throw error;
    }
  }

  /** Whether a request may be run without looking at it more closely. */
  fits(request: AttentionRequest): boolean {
    return !this.#released && this.#key.matches(request);
  }

  /** Runs a request that fits. */
  async run({ q, k, v, kv, sinks, scale }: AttentionRequest): Promise<ReferenceOutput> {
    const runtime = this.#runtime;
    const { keys, values } = kv ?? { keys: k, values: v };
    const elsewhere = new CallBlocks(runtime);
    const room = this.#idle.pop() ?? this.#makeRoom();
    this.#running++;
    try {
      if (sinks) room.sinks.data.set(sinks);
      issueAttention(runtime, this.#prepared, {
        q: this.#place(room.q, q.data as Float32Array),
        keys: elsewhere.locate(numbersOf(keys)),
        values: elsewhere.locate(numbersOf(values)),
        out: room.out.address,
        stats: room.stats.address,
        sinks: sinks ? room.sinks.address : 0,
        scale: scale ?? 1 / Math.sqrt(this.#shape.dims.D),
        options: this.#placeOptions(room, keys, values, elsewhere),
      });
      await runtime.flush();
      return readResults(this.#shape, room.out.data.slice(), room.stats.data, sinks);
    } finally {
      elsewhere.release();
      this.#idle.push(room);
      this.#running--;
      if (this.#released) this.release();
    }
  }

  /** Gives memory back as soon as nothing runs that uses it. */
  release(): void {
    this.#released = true;
    if (this.#running === 0) this.#blocks.release();
  }

  #place({ address, data }: Numbers, values: Float32Array): number {
    const own = this.#runtime.memory.addressOf(values);
    if (own !== undefined) return own;
    data.set(values);
    return address;
  }

  #placeOptions(room: Room, keys: KvStore, values: KvStore, elsewhere: CallBlocks): number {
    if (!("codes" in keys) && !("codes" in values)) return 0;
    const block = attentionOptions((numbers) => elsewhere.locate(numbers), { keys, values });
    this.#runtime.memory.view("u8", room.options, OPTIONS_BYTES).set(new Uint8Array(block.buffer));
    return room.options;
  }

  #makeRoom(): Room {
    const { B, Tq, H, D, Dv } = this.#shape.dims;
    const numbers = (length: number): Numbers => {
      const address = this.#blocks.take(length * 4);
      return { address, data: this.#runtime.memory.view("f32", address, length) };
    };
    const rows = B * Tq * H;
    return {
      q: numbers(rows * D),
      sinks: numbers(H),
      out: numbers(rows * Dv),
      stats: numbers(rows * 2),
      options: this.#blocks.take(OPTIONS_BYTES),
    };
  }
}
