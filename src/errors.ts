/**
 * The error classes. Every message reads `<where>: <expected>; got <name>=<value>, ... . <what to do>`, so that
 * it can be understood without the source. Each class has a stable `code`; the offending values are fields of
 * `got`.
 */

/** Offending values by name, as they appear in the message after "got". */
export type ErrorValues = Readonly<Record<string, unknown>>;

/** The stable codes, one per class. */
export type PhasorErrorCode =
  | "PHASOR_SHAPE"
  | "PHASOR_CONFIG"
  | "PHASOR_CAPABILITY"
  | "PHASOR_FORMAT"
  | "PHASOR_BUDGET"
  | "PHASOR_DEVICE";

/** Base of all errors that Phasor throws on purpose. */
export abstract class PhasorError extends Error {
  /** Stable identifier of the error class. */
  abstract readonly code: PhasorErrorCode;
  /** The function or file that refused. */
  readonly where: string;
  /** The offending values, by name. */
  readonly got: ErrorValues;

  /**
   * @param where - the function (or file) that refuses
   * @param expected - what would have been right, without a full stop
   * @param got - the offending values by name; may be empty
   * @param hint - what the reader can do about it, a sentence
   */
  constructor(where: string, expected: string, got: ErrorValues = {}, hint = "") {
    super(formatMessage(where, expected, got, hint));
    this.name = new.target.name;
    this.where = where;
    this.got = got;
  }
}

/** Sizes, ranks or dtypes of tensors do not fit together. */
export class ShapeError extends PhasorError {
  readonly code = "PHASOR_SHAPE";
}

/** An option or a model configuration is missing, unknown or contradictory. */
export class ConfigError extends PhasorError {
  readonly code = "PHASOR_CONFIG";
}

/** A backend or runtime cannot do what was asked; the message names one that can. */
export class CapabilityError extends PhasorError {
  readonly code = "PHASOR_CAPABILITY";
}

/** A file is damaged, truncated or not what it claims to be. */
export class FormatError extends PhasorError {
  readonly code = "PHASOR_FORMAT";
}

/** A byte or token budget cannot hold what was asked; thrown before memory is taken. */
export class BudgetError extends PhasorError {
  readonly code = "PHASOR_BUDGET";
}

/** A device (GPU, worker, thread) was lost or failed. */
export class DeviceError extends PhasorError {
  readonly code = "PHASOR_DEVICE";
}

function formatMessage(where: string, expected: string, got: ErrorValues, hint: string): string {
  const values = Object.entries(got).map(([name, value]) => `${name}=${formatValue(value)}`);
  const gotPart = values.length > 0 ? `; got ${values.join(", ")}` : "";
  return `${where}: ${expected}${gotPart}.${hint === "" ? "" : ` ${hint}`}`;
}

const MAX_VALUE_LENGTH = 120;

function formatValue(value: unknown): string {
  let text: string;
  if (typeof value === "string") text = JSON.stringify(value);
  else if (typeof value === "bigint" || typeof value === "function" || typeof value === "symbol") text = String(value);
  else if (typeof value === "number" || value === undefined) text = String(value);
  else if (ArrayBuffer.isView(value)) text = `[${Array.from(value as Uint8Array).join(", ")}]`;
  else {
    try {
      text = JSON.stringify(value) ?? String(value);
    } catch {
      text = Object.prototype.toString.call(value);
    }
  }
  return text.length <= MAX_VALUE_LENGTH ? text : `${text.slice(0, MAX_VALUE_LENGTH)}…`;
}
