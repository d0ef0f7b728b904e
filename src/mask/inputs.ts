/**
 * The numbers a mask is evaluated on: positions and whatever else it asks for.
 */

import { ConfigError, ShapeError } from "../errors.ts";
import { checkMask, type Mask } from "./expression.ts";
import { type IntegerNode, type MaskNode, POSITION_LIMIT, type VariableName } from "./node.ts";

/** Run-time values of a mask. Rows are [batch][token], row-major. Only what `requirements` lists is needed. */
export type MaskInputs = {
  /** B, number of batch entries. */
  readonly batch: number;
  /** Tq, queries per batch entry. */
  readonly queryLength: number;
  /** Tk, key slots per batch entry. */
  readonly keyLength: number;
  /** H, query heads. */
  readonly heads: number;
  /** i32 [B, Tq], below 2^30 in magnitude. */
  readonly queryPositions: Int32Array;
  /** i32 [B, Tk], below 2^30 in magnitude. */
  readonly keyPositions: Int32Array;
  /** i32 [B, Tq]; negative is padding, which sees nothing whatever the mask. */
  readonly querySegments?: Int32Array | undefined;
  /** i32 [B, Tk]; negative is padding, which nothing sees whatever the mask. */
  readonly keySegments?: Int32Array | undefined;
  /** i32 [B, Tq]; 0 and less: no span. */
  readonly querySpans?: Int32Array | undefined;
  /** i32 [B, Tk]. */
  readonly keySpans?: Int32Array | undefined;
  /** i32 [B, Tq]; index of a draft in the tree's parents, −1 for committed tokens. */
  readonly queryNodes?: Int32Array | undefined;
  /** i32 [B, Tk]. */
  readonly keyNodes?: Int32Array | undefined;
  /** i32 [B], positions. */
  readonly prefixLengths?: Int32Array | undefined;
  /** i32 [B], key slots in use. */
  readonly lengths?: Int32Array | undefined;
  /** u8 [B, Tq, Tk] by name; not 0 = allowed. */
  readonly tables?: Readonly<Record<string, Uint8Array>> | undefined;
  /** One-dimensional i32 tables for `lookup`, by name. */
  readonly integerTables?: Readonly<Record<string, Int32Array>> | undefined;
};

/** The optional rows of `MaskInputs` and how long each is. */
const ROW_LENGTHS = {
  querySegments: "query",
  keySegments: "key",
  querySpans: "query",
  keySpans: "key",
  queryNodes: "query",
  keyNodes: "key",
  prefixLengths: "batch",
  lengths: "batch",
} as const;

/** Names of the optional rows. */
export type RowName = keyof typeof ROW_LENGTHS;

/** What a mask reads besides positions. */
export type MaskRequirements = {
  /** Rows of the inputs, in alphabetical order. */
  readonly rows: readonly RowName[];
  /** Names of boolean tables. */
  readonly tables: readonly string[];
  /** Names of integer tables. */
  readonly integerTables: readonly string[];
  /** Whether heads may differ in what they see. */
  readonly headDependent: boolean;
};

const ROWS_OF_VARIABLE: Partial<Record<VariableName, RowName>> = {
  querySegment: "querySegments",
  keySegment: "keySegments",
  querySpan: "querySpans",
  keySpan: "keySpans",
  queryNode: "queryNodes",
  keyNode: "keyNodes",
  prefixLength: "prefixLengths",
  length: "lengths",
};

/**
 * The inputs that a mask needs.
 *
 * @returns names, each once, in alphabetical order
 */
export function requirements(mask: Mask): MaskRequirements {
  checkMask("requirements", mask);
  const rows = new Set<RowName>();
  const tables = new Set<string>();
  const integerTables = new Set<string>();
  let headDependent = false;

  const visitInteger = (node: IntegerNode): void => {
    if (node.op === "constant") return;
    if (node.op === "variable") {
      const row = ROWS_OF_VARIABLE[node.name];
      if (row !== undefined) rows.add(row);
      if (node.name === "head") headDependent = true;
    } else if (node.op === "lookup") {
      integerTables.add(node.table);
      visitInteger(node.index);
    } else {
      visitInteger(node.left);
      visitInteger(node.right);
    }
  };
  const visit = (node: MaskNode): void => {
    switch (node.op) {
      case "segment":
        rows.add("querySegments").add("keySegments");
        break;
      case "span":
        rows.add("querySpans").add("keySpans");
        break;
      case "tree":
        rows.add("queryNodes").add("keyNodes");
        break;
      case "prefix":
        if (node.length === undefined) rows.add("prefixLengths");
        break;
      case "length":
        rows.add("lengths");
        break;
      case "table":
        tables.add(node.name);
        break;
      case "compare":
        visitInteger(node.left);
        visitInteger(node.right);
        break;
      case "and":
      case "or":
        node.args.forEach(visit);
        break;
      case "not":
        visit(node.arg);
    }
  };
  visit(mask.node);
  return {
    rows: [...rows].sort(),
    tables: [...tables].sort(),
    integerTables: [...integerTables].sort(),
    headDependent,
  };
}

/**
 * Refuses inputs that do not fit each other or lack what the mask needs.
 *
 * @param where - the function that refuses, for messages
 * @throws ConfigError when something the mask needs is missing or a position is out of range
 * @throws ShapeError when a length does not fit
 */
export function checkMaskInputs(where: string, mask: Mask, inputs: MaskInputs): void {
  checkMask(where, mask);
  const needs = requirements(mask);
  const { batch, queryLength, keyLength, heads } = inputs;
  for (const [name, value] of Object.entries({ batch, queryLength, keyLength, heads })) {
    if (!Number.isSafeInteger(value) || value < 0) {
      throw new ShapeError(where, `${name} must be a non-negative integer`, { [name]: value });
    }
  }
  const counts = { query: batch * queryLength, key: batch * keyLength, batch };
  checkPositions(where, "queryPositions", inputs.queryPositions, counts.query);
  checkPositions(where, "keyPositions", inputs.keyPositions, counts.key);
  for (const [name, per] of Object.entries(ROW_LENGTHS)) checkRow(where, name, inputs[name as RowName], counts[per]);
  for (const name of needs.rows) {
    if (inputs[name] === undefined) throw missing(where, mask, name);
  }
  checkNodes(where, mask.node, inputs);
  for (const name of needs.tables) {
    const values = own(inputs.tables, name);
    if (values === undefined) throw missing(where, mask, `tables[${JSON.stringify(name)}]`);
    if (!(values instanceof Uint8Array) || values.length !== counts.query * keyLength) {
      throw new ShapeError(where, `table ${JSON.stringify(name)} must be u8 [B, Tq, Tk]`, {
        length: values.length,
        shape: [batch, queryLength, keyLength],
      });
    }
  }
  for (const name of needs.integerTables) {
    const values = own(inputs.integerTables, name);
    if (values === undefined) throw missing(where, mask, `integerTables[${JSON.stringify(name)}]`);
    if (!(values instanceof Int32Array)) {
      throw new ShapeError(where, `integer table ${JSON.stringify(name)} must be an Int32Array`, {});
    }
  }
}

/** A value by name, blind to what Object.prototype has. */
export function own<T>(record: Readonly<Record<string, T>> | undefined, name: string): T | undefined {
  return record !== undefined && Object.hasOwn(record, name) ? record[name] : undefined;
}

function missing(where: string, mask: Mask, input: string): ConfigError {
  return new ConfigError(
    where,
    `the mask needs ${input}`,
    { mask: mask.toString() },
    "Pass it with the mask's inputs.",
  );
}

function checkRow(where: string, name: string, values: Int32Array | undefined, length: number): void {
  if (values === undefined) return;
  if (!(values instanceof Int32Array)) throw new ShapeError(where, `${name} must be an Int32Array`, {});
  if (values.length !== length) {
    throw new ShapeError(where, `${name} must have ${length} entries`, { length: values.length });
  }
}

/** Refuses draft nodes that a tree of the mask does not have. */
function checkNodes(where: string, node: MaskNode, inputs: MaskInputs): void {
  if (node.op === "and" || node.op === "or") for (const arg of node.args) checkNodes(where, arg, inputs);
  if (node.op === "not") checkNodes(where, node.arg, inputs);
  if (node.op !== "tree") return;
  for (const name of ["queryNodes", "keyNodes"] as const) {
    const index = inputs[name]?.findIndex((draft) => draft >= node.parents.length) ?? -1;
    if (index < 0) continue;
    throw new ConfigError(where, `${name} must be below the number of drafts of the tree`, {
      index,
      node: inputs[name]?.[index],
      drafts: node.parents.length,
    });
  }
}

function checkPositions(where: string, name: string, values: Int32Array, length: number): void {
  if (values === undefined) throw new ShapeError(where, `${name} are required`, {});
  checkRow(where, name, values, length);
  for (let i = 0; i < values.length; i++) {
    const position = values[i] as number;
    if (position >= POSITION_LIMIT || position <= -POSITION_LIMIT) {
      throw new ConfigError(where, `${name} must be below 2^30 in magnitude`, { index: i, position });
    }
  }
}

/** What `createMaskInputs` fills in. */
type Defaulted = "batch" | "heads" | "queryPositions" | "keyPositions";

/**
 * Inputs with the usual defaults: one batch entry, one head, key positions 0 to Tk − 1, and queries aligned
 * bottom-right (query 0 sits at Tk − Tq).
 *
 * @param inputs - sizes, and what is to differ from the defaults
 */
export function createMaskInputs(
  inputs: Omit<MaskInputs, Defaulted> & Partial<Pick<MaskInputs, Defaulted>>,
): MaskInputs {
  const { batch = 1, heads = 1, queryLength, keyLength } = inputs;
  const rows = (length: number, first: number): Int32Array =>
    Int32Array.from({ length: batch * length }, (_, i) => first + (i % length));
  return {
    ...inputs,
    batch,
    heads,
    queryPositions: inputs.queryPositions ?? rows(queryLength, keyLength - queryLength),
    keyPositions: inputs.keyPositions ?? rows(keyLength, 0),
  };
}
