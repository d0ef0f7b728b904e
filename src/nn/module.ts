/**
 * A module is an object with parameters and a `forward`. Parameters form a tree by name, with Flax's names, so that
 * they can be listed, saved, loaded and handed to an optimiser.
 */

import { ConfigError, ShapeError } from "../errors.ts";
import { type Tensor, toF32 } from "../tensor.ts";

/** Parameters by name; the tensors are the module's own, so that what is written to them counts. */
export type ParameterTree = { readonly [name: string]: Tensor<"f32"> | ParameterTree };

/** Values for parameters by name, in any float type. */
export type ParameterValues = { readonly [name: string]: Tensor | ParameterValues };

/** An output, and the way back from it. */
export type Vjp<Gradients> = {
  readonly out: Tensor<"f32">;
  /**
   * Gradients of Σ dOut · out, in new tensors. The parameters must be those of the call: change them afterwards.
   *
   * @param dOut - f32, of the shape of `out`
   * @throws ShapeError when it has another shape
   */
  readonly backward: (dOut: Tensor<"f32">) => Gradients;
};

/** Gradients of a module with one input. */
export type ModuleGradients = {
  /** f32, of the shape of the input. */
  readonly dx: Tensor<"f32">;
  /** A tree like that of `parameters()`. */
  readonly parameters: ParameterTree;
};

/** What all modules have. Those that can be differentiated also have `vjp`, which is `forward` and the way back. */
export abstract class Module {
  /** The parameters by name; empty where there are none. */
  abstract parameters(): ParameterTree;

  /**
   * Copies values into the parameters: all of them, or none where something does not fit.
   *
   * @param values - a tree like that of `parameters`
   * @throws ConfigError when a name is missing or unknown; ShapeError when a shape differs
   */
  load(values: ParameterValues): void {
    const pairs = matchParameters("load", this.parameters(), values);
    const copies = pairs.map(({ parameter, value }) => ({ parameter, values: toF32(value) }));
    for (const { parameter, values: copied } of copies) parameter.data.set(copied);
  }
}

/**
 * Parameters and the values that have their names.
 *
 * @throws ConfigError when a name is missing or unknown; ShapeError when a shape differs
 */
export function matchParameters(
  where: string,
  parameters: ParameterTree,
  values: ParameterValues,
): { readonly name: string; readonly parameter: Tensor<"f32">; readonly value: Tensor }[] {
  const wanted = flattenParameters(parameters);
  const given = flattenParameters(values);
  for (const name of Object.keys(given)) {
    if (!Object.hasOwn(wanted, name)) {
      throw new ConfigError(where, "only names of this module", { name }, `It has ${nameList(wanted)}.`);
    }
  }
  return Object.entries(wanted).map(([name, parameter]) => {
    const value = Object.hasOwn(given, name) ? given[name] : undefined;
    if (value === undefined) {
      throw new ConfigError(where, "a value for every parameter", { missing: name });
    }
    if (value.shape.join() !== parameter.shape.join()) {
      throw new ShapeError(where, `${name} must have shape [${parameter.shape}]`, { shape: value.shape });
    }
    return { name, parameter: parameter as Tensor<"f32">, value };
  });
}

/** A tree as one record, names joined by dots: `{ query: { kernel } }` becomes `{ "query.kernel": kernel }`. */
export function flattenParameters<T extends Tensor>(tree: NamedTree<T>): Record<string, T> {
  const flat: [string, T][] = [];
  const visit = (branch: NamedTree<T>, path: string): void => {
    for (const [name, value] of Object.entries(branch)) {
      if (isTensor<T>(value)) flat.push([path + name, value]);
      else visit(value as NamedTree<T>, `${path}${name}.`);
    }
  };
  visit(tree, "");
  return Object.fromEntries(flat);
}

/** The opposite of `flattenParameters`. */
export function nestParameters<T extends Tensor>(flat: Readonly<Record<string, T>>): NamedTree<T> {
  const root = new Map<string, unknown>();
  for (const [path, value] of Object.entries(flat)) {
    const names = path.split(".");
    let branch = root;
    for (const name of names.slice(0, -1)) {
      const next = branch.get(name) ?? new Map<string, unknown>();
      if (!(next instanceof Map)) {
        throw new ConfigError("nestParameters", "a name must be a parameter or a group of them, not both", { path });
      }
      branch.set(name, next);
      branch = next;
    }
    const last = names[names.length - 1];
    if (branch.has(last)) {
      throw new ConfigError("nestParameters", "a name must be a parameter or a group of them, not both", { path });
    }
    branch.set(last, value);
  }
  const record = (branch: Map<string, unknown>): unknown =>
    Object.fromEntries(Array.from(branch, ([name, value]) => [name, value instanceof Map ? record(value) : value]));
  return record(root) as NamedTree<T>;
}

/** Tensors by name, nested. */
export type NamedTree<T extends Tensor> = { readonly [name: string]: T | NamedTree<T> };

function isTensor<T extends Tensor>(value: T | NamedTree<T>): value is T {
  return Array.isArray((value as T).shape) && ArrayBuffer.isView((value as T).data);
}

function nameList(parameters: Readonly<Record<string, unknown>>): string {
  return Object.keys(parameters).join(", ") || "no parameters";
}
