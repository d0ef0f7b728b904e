/**
 * Modules: functions over one imported memory, as bytes and as text.
 *
 * @see https://webassembly.github.io/spec/core/binary/modules.html
 */

import type { Expression } from "./expression.ts";
import { type FunctionBody, FunctionBuilder, type Statement } from "./function.ts";
import { signedLeb, unsignedLeb, type ValueType } from "./instructions.ts";

const TYPE_CODES: Readonly<Record<ValueType, number>> = { i32: 0x7f, i64: 0x7e, f32: 0x7d, f64: 0x7c, v128: 0x7b };

/** The memory a module imports as `env.memory`. */
export type MemoryImport = {
  /** Smallest size in 64 KiB pages. */
  readonly minimumPages: number;
  /** Largest size in 64 KiB pages. */
  readonly maximumPages: number;
  readonly shared: boolean;
};

/** A handle on a function, to call it from another one. */
export type FunctionHandle = {
  readonly name: string;
  readonly index: number;
  readonly parameters: readonly ValueType[];
};

/** Collects functions and writes the module. */
export class ModuleBuilder {
  readonly #memory: MemoryImport;
  readonly #functions: { body: FunctionBody; exported: boolean }[] = [];

  constructor(memory: MemoryImport) {
    this.#memory = memory;
  }

  /** Adds a function that returns nothing. */
  function(name: string, build: (f: FunctionBuilder) => void, exported = true): FunctionHandle {
    const builder = new FunctionBuilder(name);
    build(builder);
    const body = builder.build();
    this.#functions.push({ body, exported });
    const parameters = body.parameters.map((parameter) => parameter.type);
    return { name, index: this.#functions.length - 1, parameters };
  }

  /** The binary module. */
  toBytes(): Uint8Array<ArrayBuffer> {
    const { minimumPages, maximumPages, shared } = this.#memory;
    const types = this.#functions.map(({ body }) => [
      0x60,
      ...vectorOf(body.parameters.map((parameter) => [TYPE_CODES[parameter.type]])),
      0x00,
    ]);
    const limits = [shared ? 0x03 : 0x01, ...unsignedLeb(minimumPages), ...unsignedLeb(maximumPages)];
    const memoryImport = [...nameBytes("env"), ...nameBytes("memory"), 0x02, ...limits];
    const exports = this.#functions.flatMap(({ body, exported }, index) =>
      exported ? [[...nameBytes(body.name), 0x00, ...unsignedLeb(index)]] : [],
    );
    const bodies = this.#functions.map(({ body }) => {
      const code = encodeFunction(body);
      return [...unsignedLeb(code.length), ...code];
    });
    return Uint8Array.from([
      ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
      ...section(1, vectorOf(types)),
      ...section(2, vectorOf([memoryImport])),
      ...section(3, vectorOf(this.#functions.map((_, index) => unsignedLeb(index)))),
      ...section(7, vectorOf(exports)),
      ...section(10, vectorOf(bodies)),
    ]);
  }

  /** The functions as indented text, for review. */
  toText(): string {
    return this.#functions.map(({ body }) => printFunction(body)).join("\n");
  }
}

function section(id: number, content: readonly number[]): number[] {
  return [id, ...unsignedLeb(content.length), ...content];
}

function vectorOf(items: readonly (readonly number[])[]): number[] {
  return [...unsignedLeb(items.length), ...items.flat()];
}

function nameBytes(name: string): number[] {
  const bytes = [...new TextEncoder().encode(name)];
  return [...unsignedLeb(bytes.length), ...bytes];
}

function encodeFunction(body: FunctionBody): number[] {
  const out: number[] = [];
  out.push(...vectorOf(body.locals.map((local) => [0x01, TYPE_CODES[local.type]])));
  for (const statement of body.statements) encodeStatement(statement, out);
  out.push(0x0b);
  return out;
}

function encodeStatement(statement: Statement, out: number[]): void {
  switch (statement.kind) {
    case "comment":
      return;
    case "set":
      encodeExpression(statement.value, out);
      out.push(0x21, ...unsignedLeb(statement.local.node.index));
      return;
    case "effect":
      encodeExpression(statement.value, out);
      return;
    case "drop":
      encodeExpression(statement.value, out);
      out.push(0x1a);
      return;
    case "if":
      encodeExpression(statement.condition, out);
      out.push(0x04, 0x40);
      for (const inner of statement.whenTrue) encodeStatement(inner, out);
      if (statement.whenFalse.length > 0) {
        out.push(0x05);
        for (const inner of statement.whenFalse) encodeStatement(inner, out);
      }
      out.push(0x0b);
      return;
    case "loop":
    case "block":
      out.push(statement.kind === "loop" ? 0x03 : 0x02, 0x40);
      for (const inner of statement.body) encodeStatement(inner, out);
      out.push(0x0b);
      return;
    case "branch":
      if (statement.condition) encodeExpression(statement.condition, out);
      out.push(statement.condition ? 0x0d : 0x0c, ...unsignedLeb(statement.depth));
  }
}

function encodeExpression(expression: Expression, out: number[]): void {
  const { node } = expression;
  if (node.kind === "local") {
    out.push(0x20, ...unsignedLeb(node.index));
    return;
  }
  for (const arg of node.args) encodeExpression(arg, out);
  if (node.kind === "call") {
    out.push(0x10, ...unsignedLeb(node.index));
    return;
  }
  const { instruction, immediate } = node;
  out.push(...instruction.opcode);
  switch (instruction.immediate) {
    case "none":
      return;
    case "const":
      out.push(...encodeConstant(instruction.result as ValueType, immediate));
      return;
    case "memory":
      out.push(instruction.alignment as number, ...unsignedLeb(immediate[0] ?? 0));
      return;
    case "memory-lane":
      out.push(instruction.alignment as number, ...unsignedLeb(immediate[0]), immediate[1]);
      return;
    case "lane":
    case "shuffle":
      out.push(...immediate);
  }
}

function encodeConstant(type: ValueType, immediate: readonly number[]): number[] {
  switch (type) {
    case "i32":
      return signedLeb(immediate[0]);
    case "f32":
      return [...new Uint8Array(Float32Array.of(immediate[0]).buffer)];
    case "f64":
      return [...new Uint8Array(Float64Array.of(immediate[0]).buffer)];
    case "v128":
      return [...new Uint8Array(Int32Array.from(immediate).buffer)];
    case "i64":
      throw new Error("assembler: i64 constants are not used");
  }
}

function printFunction(body: FunctionBody): string {
  const parameters = body.parameters.map((one) => `${one.node.name}: ${one.type}`).join(", ");
  const lines = [`${body.name}(${parameters})`];
  for (const statement of body.statements) printStatement(statement, 1, lines);
  return `${lines.join("\n")}\n`;
}

function printStatement(statement: Statement, depth: number, lines: string[]): void {
  const indent = "  ".repeat(depth);
  switch (statement.kind) {
    case "comment":
      lines.push(`${indent};; ${statement.text}`);
      return;
    case "set":
      lines.push(`${indent}${statement.local.node.name} = ${printExpression(statement.value)}`);
      return;
    case "effect":
    case "drop":
      lines.push(`${indent}${printExpression(statement.value)}`);
      return;
    case "if":
      lines.push(`${indent}if ${printExpression(statement.condition)}`);
      for (const inner of statement.whenTrue) printStatement(inner, depth + 1, lines);
      if (statement.whenFalse.length > 0) lines.push(`${indent}else`);
      for (const inner of statement.whenFalse) printStatement(inner, depth + 1, lines);
      return;
    case "loop":
    case "block":
      lines.push(`${indent}${statement.kind}`);
      for (const inner of statement.body) printStatement(inner, depth + 1, lines);
      return;
    case "branch":
      lines.push(
        `${indent}branch ${statement.depth}${statement.condition ? ` if ${printExpression(statement.condition)}` : ""}`,
      );
  }
}

function printExpression({ node }: Expression): string {
  if (node.kind === "local") return node.name;
  const args = node.args.map(printExpression);
  if (node.kind === "call") return `${node.name}(${args.join(", ")})`;
  const { instruction, immediate } = node;
  if (instruction.name === "i32.const") return String(immediate[0]);
  const isAccess = instruction.immediate === "memory" || instruction.immediate === "memory-lane";
  if (isAccess && immediate[0] > 0) args[0] = `${args[0]} + ${immediate[0]}`;
  const fixed = isAccess ? immediate.slice(1) : immediate;
  return `${instruction.name}${fixed.length > 0 ? `[${fixed.join(" ")}]` : ""}(${args.join(", ")})`;
}
