/** Runs one case and compares what it gave with what was expected. */

import { join } from "node:path";
import { openModelFolder, openSafetensors } from "phasor/model";
import type { GoldenCase, Tolerance } from "./format.ts";

/** Any numbers: typed arrays of outputs and of golden tensors. */
export type Values = ArrayLike<number>;

/** Numbers with their shape. */
export type GoldenTensor = { dtype: string; shape: readonly number[]; data: Values };

/** What a suite's runner is given. */
export type CaseInput = {
  params: Record<string, unknown>;
  /** A tensor of the case's file; an error when it is not there. */
  tensor: (name: string) => GoldenTensor;
  /** Whether the file holds a tensor. */
  has: (name: string) => boolean;
  /** The names of all tensors in the file. */
  names: readonly string[];
  /** The folder of cases.json. */
  folder: string;
  backend: string;
};

/** Computes a case's outputs, by the names of the golden tensors they must equal. */
export type SuiteRunner = (input: CaseInput) => Promise<Record<string, Values>>;

/** `null` when every output agrees; otherwise what was wrong. */
export async function runCase(
  suite: SuiteRunner,
  golden: GoldenCase,
  folder: string,
  backend: string,
): Promise<string | null> {
  try {
    const tensors = await readTensors(folder, golden.file);
    const tensor = (name: string): GoldenTensor => {
      const found = tensors.get(name);
      if (found === undefined) throw new Error(`${golden.file} has no tensor ${name}`);
      return found;
    };
    const has = (name: string): boolean => tensors.has(name);
    const names = [...tensors.keys()];
    const outputs = await suite({ params: golden.params, tensor, has, names, folder, backend });
    if (Object.keys(outputs).length === 0) return "the runner compared nothing";
    const problems = Object.entries(outputs).flatMap(([name, got]) => {
      const problem = compare(got, tensor(name), golden.tolerances?.[name] ?? golden);
      return problem === null ? [] : [`${name}: ${problem}`];
    });
    return problems.length === 0 ? null : problems.join("; ");
  } catch (error) {
    return error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  }
}

async function readTensors(folder: string, file: string): Promise<Map<string, GoldenTensor>> {
  // The path may lead into a subfolder; open the folder it is in.
  const path = join(folder, file);
  const slash = Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\"));
  const files = await openModelFolder(path.slice(0, slash));
  const opened = await openSafetensors(await files.open(path.slice(slash + 1)));
  const tensors = new Map<string, GoldenTensor>();
  for (const name of opened.tensors.keys()) {
    const { dtype, shape, data } = await opened.read(name);
    tensors.set(name, { dtype, shape, data: typeof data[0] === "bigint" ? Array.from(data, Number) : (data as never) });
  }
  return tensors;
}

/** `null` when all values agree; integers must be equal, and so must infinities. */
export function compare(got: Values, want: GoldenTensor, { rtol, atol }: Tolerance): string | null {
  if (got.length !== want.data.length) return `${got.length} values, expected ${want.data.length}`;
  const exact = !want.dtype.startsWith("f");
  let worst = 0;
  let worstAt = -1;
  for (let i = 0; i < got.length; i++) {
    const difference = got[i] === want.data[i] ? 0 : Math.abs(got[i] - want.data[i]);
    const allowed = exact || !Number.isFinite(want.data[i]) ? 0 : atol + rtol * Math.abs(want.data[i]);
    const excess = difference <= allowed ? 0 : difference; // NaN is never within
    if (excess > worst || Number.isNaN(excess)) {
      worst = excess;
      worstAt = i;
      if (Number.isNaN(excess)) break;
    }
  }
  if (worstAt < 0) return null;
  return `largest error ${worst} at ${worstAt} (got ${got[worstAt]}, expected ${want.data[worstAt]})`;
}
