/**
 * Which kernel runs a request: the first of this table that applies and whose declared capabilities suffice.
 *
 * | kernel | chosen when                                        | can be forced when                   |
 * |--------|----------------------------------------------------|--------------------------------------|
 * | paged  | keys are in pages                                  | the same                             |
 * | dense  | at most 64 keys: one tile, nothing to skip         | at most 4096 keys, not in pages      |
 * | ragged | at most 16 rows, sequences of different lengths    | at most 64 rows, keys not in pages   |
 * | decode | at most 16 rows                                    | at most 64 rows, keys not in pages   |
 * | tiled  | otherwise                                          | keys are not in pages                |
 *
 * Rows are those of one key-value head: Tq·G. Decode and ragged have one row tile, whose keys go to several workers;
 * tiled has row tiles of 64; dense sees all keys of a row at once and needs no running softmax.
 */

import { CapabilityError, ConfigError } from "../errors.ts";
import { type Capabilities, type KernelName, lacking, type Needs } from "./capabilities.ts";

/** All kernels, in the order of the table. */
export const KERNEL_NAMES: readonly KernelName[] = ["paged", "dense", "ragged", "decode", "tiled"];

/** What the choice looks at. */
export type KernelFacts = {
  /** Tq·G. */
  readonly rows: number;
  /** Tk. */
  readonly keys: number;
  /** Keys of a tile; 64 unless the caller wants another number. */
  readonly tileKeys: number;
  /** Whether some sequence is shorter than Tk. */
  readonly ragged: boolean;
  readonly needs: Needs;
};

/** The kernel and why. */
export type KernelChoice = {
  readonly kernel: KernelName;
  readonly reason: string;
  /** Kernels before it in the table that would apply, and what they lack. */
  readonly passedOver: readonly string[];
};

type Rule = {
  /** Why the kernel is chosen; undefined when it is not. */
  readonly chosen: (facts: KernelFacts) => string | undefined;
  /** What keeps the kernel from running the request at all, what it takes instead; undefined when nothing does. */
  readonly barred: (facts: KernelFacts) => string | undefined;
};

const notPaged = ({ needs }: KernelFacts): string | undefined =>
  needs.layout === "paged" ? "keys that are not in pages" : undefined;

const fewRows = (facts: KernelFacts): string | undefined =>
  notPaged(facts) ?? (facts.rows > 64 ? "at most 64 rows (queries × heads of a group)" : undefined);

const RULES: Record<KernelName, Rule> = {
  paged: {
    chosen: ({ needs }) => (needs.layout === "paged" ? "keys are in pages" : undefined),
    barred: ({ needs }) => (needs.layout === "paged" ? undefined : "keys in pages"),
  },
  dense: {
    chosen: ({ keys, tileKeys }) => (keys <= tileKeys ? `${keys} keys fit one tile` : undefined),
    barred: (facts) => notPaged(facts) ?? (facts.keys > 4096 ? "at most 4096 keys" : undefined),
  },
  ragged: {
    chosen: ({ rows, ragged }) =>
      ragged && rows <= 16 ? `${rows} rows and sequences of different lengths` : undefined,
    barred: fewRows,
  },
  decode: {
    chosen: ({ rows }) => (rows <= 16 ? `${rows} rows` : undefined),
    barred: fewRows,
  },
  tiled: {
    chosen: ({ rows, keys }) => `${rows} rows and ${keys} keys`,
    barred: notPaged,
  },
};

/**
 * Chooses a kernel.
 *
 * @param forced - take this one or refuse
 * @throws CapabilityError when no kernel, or not the forced one, can do what the request needs
 * @throws ConfigError when the forced kernel has an unknown name
 */
export function chooseKernel(facts: KernelFacts, capabilities: Capabilities, forced?: KernelName): KernelChoice {
  if (forced !== undefined) return checkForced(facts, capabilities, forced);
  const passedOver: string[] = [];
  for (const kernel of KERNEL_NAMES) {
    const rule = RULES[kernel];
    const reason = rule.chosen(facts);
    if (reason === undefined || rule.barred(facts) !== undefined) continue;
    const can = capabilities.kernels[kernel];
    const lack = can === undefined ? "is not there" : lacking(can, facts.needs);
    if (lack === undefined) return { kernel, reason, passedOver };
    passedOver.push(can === undefined ? `${kernel} ${lack}` : `${kernel} lacks ${lack}`);
  }
  throw new CapabilityError(
    "planAttention",
    `backend ${JSON.stringify(capabilities.backend)} must have a kernel for this request`,
    { kernels: passedOver },
    'Backend "reference" has one.',
  );
}

function checkForced(facts: KernelFacts, capabilities: Capabilities, kernel: KernelName): KernelChoice {
  if (!KERNEL_NAMES.includes(kernel)) {
    throw new ConfigError("planAttention", `kernel must be one of ${KERNEL_NAMES.join(", ")}`, { kernel });
  }
  const { backend } = capabilities;
  const can = capabilities.kernels[kernel];
  const barred = RULES[kernel].barred(facts);
  const lack = barred ?? (can === undefined ? "the kernel" : lacking(can, facts.needs));
  if (lack === undefined) return { kernel, reason: "asked for", passedOver: [] };
  const other = KERNEL_NAMES.find((name) => {
    const rule = RULES[name];
    const able = capabilities.kernels[name];
    const applies = rule.chosen(facts) !== undefined && rule.barred(facts) === undefined;
    return applies && able !== undefined && lacking(able, facts.needs) === undefined;
  });
  const { rows, keys } = facts;
  throw new CapabilityError(
    "planAttention",
    barred === undefined ? `kernel ${kernel} must support what the request needs` : `kernel ${kernel} takes ${barred}`,
    barred === undefined ? { backend, lacking: lack } : { rows, keys, layout: facts.needs.layout },
    other !== undefined ? `Kernel ${JSON.stringify(other)} can do it.` : 'Backend "reference" can do it.',
  );
}
