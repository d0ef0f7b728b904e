/**
 * A decoder's weights as they are trained: f32, side by side in one run of memory, with gradients and moments in
 * runs of the same order. A step over all parameters is then one operation, and a checkpoint four copies.
 *
 * Matrices come first, then vectors (norms and biases), which do not decay.
 */

import type { TrainingBackend, WeightMatrix } from "../engine/index.ts";
import { CapabilityError } from "../errors.ts";
import { type DecoderWeights, WeightLoader } from "../model/decoder-weights.ts";
import type { Checkpoint, ModelDescription } from "../model/index.ts";
import { sizeOf, type Tensor, tensor } from "../tensor.ts";

/** One tensor of a checkpoint. */
export type ParameterInfo = {
  /** Its name in the checkpoint. */
  readonly name: string;
  /** [N, K] or [N]. */
  readonly shape: readonly number[];
};

/** A place among all parameters. */
type Slot = ParameterInfo & { readonly start: number };

/** Parameters begin at multiples of this many elements: cache lines. */
const ALIGNMENT = 16;

/** All parameters of a decoder, with what training keeps beside them. */
export class Parameters {
  /** f32 [N], all weights. */
  readonly weights: Tensor<"f32">;
  /** f32 [N], sums of gradients. */
  readonly gradients: Tensor<"f32">;
  /** f32 [N], means of gradients. */
  readonly means: Tensor<"f32">;
  /** f32 [N], means of squared gradients. */
  readonly squares: Tensor<"f32">;
  /** Elements at the front that decay: the matrices. */
  readonly decaying: number;
  /** Number of weights, gaps not counted. */
  readonly count: number;
  readonly #slots: readonly Slot[];
  /** Slots by where their weights begin in memory. */
  readonly #slotAt = new Map<number, Slot>();

  constructor(infos: readonly ParameterInfo[], backend: TrainingBackend) {
    const isMatrix = ({ shape }: ParameterInfo): boolean => shape.length > 1;
    const inOrder = [...infos.filter(isMatrix), ...infos.filter((info) => !isMatrix(info))];
    const slots: Slot[] = [];
    let end = 0;
    let decaying = 0;
    for (const info of inOrder) {
      slots.push({ ...info, start: end });
      end = Math.ceil((end + sizeOf(info.shape)) / ALIGNMENT) * ALIGNMENT;
      if (isMatrix(info)) decaying = end;
    }
    this.#slots = slots;
    this.decaying = decaying;
    this.count = infos.reduce((sum, { shape }) => sum + sizeOf(shape), 0);
    this.weights = backend.allocate([end]);
    this.gradients = backend.allocate([end]);
    this.means = backend.allocate([end]);
    this.squares = backend.allocate([end]);
    for (const slot of slots) this.#slotAt.set(this.weights.data.byteOffset + 4 * slot.start, slot);
  }

  /** Names and weights, in the order of memory. */
  entries(): Generator<readonly [string, Tensor<"f32">]> {
    return this.entriesOf(this.weights);
  }

  /** Names and parts of `weights`, `gradients`, `means` or `squares`, in the order of memory. */
  *entriesOf(whole: Tensor<"f32">): Generator<readonly [string, Tensor<"f32">]> {
    for (const slot of this.#slots) yield [slot.name, part(whole, slot)];
  }

  /** The weights of that name. */
  weight(name: string): Tensor<"f32"> {
    const slot = this.#slots.find((one) => one.name === name);
    if (slot === undefined) throw new Error(`parameters: ${name} was not announced`);
    return part(this.weights, slot);
  }

  /** The gradient of one of the weights. */
  gradientOf(weight: Tensor | WeightMatrix): Tensor<"f32"> {
    const slot = this.#slotAt.get(weight.data.byteOffset);
    if (slot === undefined) throw new Error("parameters: a tensor that is not one of the weights");
    return part(this.gradients, slot);
  }

  /** Gives all memory back. */
  release(backend: TrainingBackend): void {
    for (const t of [this.weights, this.gradients, this.means, this.squares]) backend.release(t);
  }
}

function part(whole: Tensor<"f32">, { start, shape }: Slot): Tensor<"f32"> {
  return tensor("f32", shape, whole.data.subarray(start, start + sizeOf(shape)));
}

/** Names and shapes of a decoder's weights, as its family names them. */
export async function listParameters({ family, config, reader }: ModelDescription): Promise<ParameterInfo[]> {
  const infos: ParameterInfo[] = [];
  const loader = new RoleLoader((name, shape) => {
    infos.push({ name, shape });
    return { dtype: "f32", shape, data: NOTHING };
  });
  await family.loadWeights(loader, config, reader);
  return infos;
}

/** A decoder's weights by role, all of them parts of `parameters`. */
export async function weightsByRole(
  { family, config, reader }: ModelDescription,
  parameters: Parameters,
): Promise<DecoderWeights> {
  return family.loadWeights(new RoleLoader((name) => parameters.weight(name)), config, reader);
}

const NOTHING = new Float32Array(0);

const NO_CHECKPOINT: Checkpoint = {
  totalBytes: 0,
  parameterCount: 0,
  names: () => [],
  has: () => false,
  info: refuse,
  read: refuse,
};

/** Families read every weight through a loader; this one hands out tensors instead of reading a file. */
class RoleLoader extends WeightLoader {
  readonly #give: (name: string, shape: readonly number[]) => Tensor<"f32">;

  constructor(give: (name: string, shape: readonly number[]) => Tensor<"f32">) {
    super(NO_CHECKPOINT, undefined as never, () => {});
    this.#give = give;
  }

  override async vector(name: string, size: number): Promise<Tensor<"f32">> {
    return this.#give(name, [size]);
  }

  override async matrix(name: string, outputs: number, inputs: number): Promise<Tensor<"f32">> {
    return this.#give(name, [outputs, inputs]);
  }
}

function refuse(name: string): never {
  throw new CapabilityError("train", "weights that are loaded as plain matrices and vectors", { tensor: name });
}
