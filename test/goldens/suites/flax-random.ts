/** The random numbers of the Flax suite. Words are u32 bit-cast to i32. */

import { initializers, Linear, type RandomKey, Rngs, random, threefry2x32 } from "phasor/nn";
import type { CaseInput, SuiteRunner, Values } from "../case.ts";

type Outputs = Record<string, Values>;

/** jax.random: whatever the names of the tensors say, all drawn with key(seed). */
export const prng: SuiteRunner = async ({ params, names, tensor }) => {
  const { seed, fold_in_data: foldInData } = params as { seed: number; fold_in_data: number[] };
  const key = random.key(seed);
  return Object.fromEntries(names.map((name) => [name, draw(key, name, tensor(name).shape, foldInData)]));
};

function draw(key: RandomKey, name: string, shape: readonly number[], foldInData: readonly number[]): Values {
  const [, kind, rest] = /^(.*?)(?:_([-\d].*))?$/.exec(name) as RegExpExecArray;
  const bounds = /^(-?[\d.]+)_(-?[\d.]+)$/.exec(rest ?? "");
  const [low, high] = bounds === null ? [] : [Number(bounds[1]), Number(bounds[2])];
  switch (kind) {
    case "key_data":
      return words(key);
    case "split":
      return words(
        random
          .split(
            key,
            rest.split("x").reduce((size, extent) => size * Number(extent), 1),
          )
          .flat(),
      );
    case "fold_in":
      return words(foldInData.flatMap((data) => random.foldIn(key, data)));
    case "bits32":
      return words(random.bits(key, shape));
    case "uniform":
      return random.uniform(key, shape, low, high).data;
    case "normal":
      return random.normal(key, shape).data;
    case "truncated_normal":
      return random.truncatedNormal(key, shape, low, high).data;
    case "bernoulli":
      return random.bernoulli(key, Number(rest), shape).data;
    case "lecun_normal":
      return initializers.lecunNormal()(key, shape).data;
    case "glorot_uniform":
      return initializers.glorotUniform()(key, shape).data;
    default:
      throw new Error(`unknown draw ${name}`);
  }
}

/** The block function, on its own. */
export const threefry: SuiteRunner = async ({ tensor }) => {
  const [first, second] = Int32Array.from(tensor("key").data);
  const x = Int32Array.from(tensor("x").data);
  const half = x.length / 2;
  const blocks = Array.from({ length: half }, (_, i) => threefry2x32([first, second], [x[i], x[half + i]]));
  const out = [0, 1].flatMap((word) => blocks.map((block) => block[word]));
  return { out: words(out), zero_out: words(threefry2x32([0, 0], [0, 0])) };
};

/** nnx.Rngs: successive keys of streams, and the kernels of linear layers that draw from one. */
export const nnxRngs: SuiteRunner = async ({ params, tensor }: CaseInput) => {
  const {
    seed,
    params_seed: paramsSeed,
    mixed_calls: mixed,
    named_calls: named,
  } = params as {
    seed: number;
    params_seed: number;
    mixed_calls: string[];
    named_calls: string[];
  };
  const keysOf = (rngs: Rngs, names: readonly string[]): Values =>
    words(names.flatMap((name) => rngs.next(name === "()" ? "default" : name)));
  const chained = new Rngs(seed);
  const chain = [0, 1, 2].map((i) => {
    const [inputs, outputs] = tensor(`chain${i}`).shape;
    return new Linear(inputs, outputs, { rngs: chained, useBias: i !== 1 }).kernel.data;
  });
  const successive = Array.from({ length: tensor("params_keys").shape[0] }, () => "params");
  const [inputs, outputs] = tensor("linear_4x3_kernel").shape;
  const result: Outputs = {
    params_keys: keysOf(new Rngs(seed), successive),
    mixed_keys: keysOf(new Rngs(seed), mixed),
    named_keys: keysOf(new Rngs(seed, { params: paramsSeed }), named),
    linear_4x3_kernel: new Linear(inputs, outputs, { rngs: new Rngs(seed) }).kernel.data,
    chain0: chain[0],
    chain1: chain[1],
    chain2: chain[2],
  };
  return result;
};

function words(values: ArrayLike<number>): Int32Array {
  return Int32Array.from(values);
}
