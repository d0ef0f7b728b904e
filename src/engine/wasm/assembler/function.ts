/**
 * Functions as lists of statements, built top to bottom.
 */

import { apply, type Expression, type I32, i32, type V128 } from "./expression.ts";
import type { ValueType } from "./instructions.ts";
import type { FunctionHandle } from "./module.ts";

/** A local variable or parameter; reading it is an expression. */
export type Local<T extends ValueType = ValueType> = Expression<T> & {
  readonly node: { readonly kind: "local"; readonly index: number; readonly name: string };
};

/** One statement. */
export type Statement =
  | { readonly kind: "set"; readonly local: Local; readonly value: Expression }
  | { readonly kind: "effect"; readonly value: Expression }
  | { readonly kind: "drop"; readonly value: Expression }
  | {
      readonly kind: "if";
      readonly condition: Expression;
      readonly whenTrue: Statement[];
      readonly whenFalse: Statement[];
    }
  | { readonly kind: "loop"; readonly body: Statement[] }
  | { readonly kind: "block"; readonly body: Statement[] }
  /** Leaves the depth-th enclosing block, or repeats the depth-th enclosing loop. */
  | { readonly kind: "branch"; readonly depth: number; readonly condition: Expression | null }
  | { readonly kind: "comment"; readonly text: string };

/** A function of a module. */
export type FunctionBody = {
  readonly name: string;
  readonly parameters: readonly Local[];
  readonly locals: readonly Local[];
  readonly statements: readonly Statement[];
};

/** Builds one function. */
export class FunctionBuilder {
  readonly name: string;
  readonly #parameters: Local[] = [];
  readonly #locals: Local[] = [];
  readonly #constants = new Map<number, Local<"v128">>();
  #statements: Statement[] = [];

  constructor(name: string) {
    this.name = name;
  }

  /** The next parameter. All parameters come before the first local. */
  parameter<T extends ValueType>(name: string, type: T): Local<T> {
    if (this.#locals.length > 0) throw new Error("assembler: parameters come before locals");
    const local: Local<T> = { type, node: { kind: "local", index: this.#parameters.length, name } };
    this.#parameters.push(local);
    return local;
  }

  /** A local, 0 at the start; with a value, set at once. */
  local<T extends ValueType>(name: string, type: T, value?: Expression<T> | number): Local<T> {
    const index = this.#parameters.length + this.#locals.length;
    const local: Local<T> = { type, node: { kind: "local", index, name } };
    this.#locals.push(local);
    if (value !== undefined) this.set(local, value);
    return local;
  }

  /** Several vectors named name0, name1, …. */
  vectors(name: string, count: number): Local<"v128">[] {
    return Array.from({ length: count }, (_, i) => this.local(`${name}${i}`, "v128"));
  }

  /**
   * A float in all four lanes, for use in loops: set once, at the start of the function. (V8 builds a vector constant
   * anew at every use.)
   */
  constant(value: number): Local<"v128"> {
    const known = this.#constants.get(value);
    if (known) return known;
    const local = this.local(String(value), "v128");
    this.#constants.set(value, local);
    return local;
  }

  /** local = value. */
  set<T extends ValueType>(local: Local<T>, value: Expression<T> | number): void {
    const expression = typeof value === "number" ? (apply(`${local.type}.const`, [], [value]) as Expression) : value;
    if (expression.type !== local.type) {
      throw new Error(`assembler: ${local.node.name} is ${local.type}; got ${expression.type}`);
    }
    this.#statements.push({ kind: "set", local, value: expression });
  }

  /** memory[address + offset] = value. */
  store(name: string, address: I32, value: Expression | number, offset = 0): void {
    this.#statements.push({ kind: "effect", value: apply(name, [address, value], [offset]) });
  }

  /** Stores four lanes. */
  storeVector(address: I32, value: V128, offset = 0): void {
    this.store("v128.store", address, value, offset);
  }

  /** Copies bytes; the areas may overlap. */
  copyMemory(target: I32, source: I32, bytes: I32): void {
    this.run(apply("memory.copy", [target, source, bytes]));
  }

  /**
   * Calls another function of the module.
   *
   * @throws Error when the arguments do not fit: a mistake in an emitter
   */
  call({ name, index, parameters }: FunctionHandle, args: readonly (Expression | number)[]): void {
    const lifted = args.map((arg, i) =>
      typeof arg === "number" ? apply(`${parameters[i] ?? "i32"}.const`, [], [arg]) : arg,
    );
    const types = lifted.map((arg) => arg.type).join(" ");
    if (types !== parameters.join(" ")) {
      throw new Error(`assembler: ${name} takes (${parameters.join(" ")}); got (${types})`);
    }
    this.#statements.push({
      kind: "effect",
      value: { type: null as never, node: { kind: "call", index, name, args: lifted } },
    });
  }

  /** Runs an expression for its effect. */
  run(value: Expression): void {
    this.#statements.push(value.type === null ? { kind: "effect", value } : { kind: "drop", value });
  }

  /** Shows up in the listing. */
  comment(text: string): void {
    this.#statements.push({ kind: "comment", text });
  }

  /** if (condition) whenTrue() else whenFalse(). */
  if(condition: Expression<"i32">, whenTrue: () => void, whenFalse: () => void = () => {}): void {
    this.#statements.push({
      kind: "if",
      condition,
      whenTrue: this.#collect(whenTrue),
      whenFalse: this.#collect(whenFalse),
    });
  }

  /** do body() while (condition()). */
  doWhile(body: () => void, condition: () => Expression<"i32">): void {
    const statements = this.#collect(() => {
      body();
      this.#statements.push({ kind: "branch", depth: 0, condition: condition() });
    });
    this.#statements.push({ kind: "loop", body: statements });
  }

  /** for (counter = from; counter < to; counter += step) body(), signed. */
  for(counter: Local<"i32">, from: I32, to: I32, step: I32, body: () => void): void {
    this.set(counter, from);
    this.if(i32.ltS(counter, to), () => this.forAtLeastOnce(counter, to, step, body));
  }

  /** The same for a range that is known not to be empty, with the counter already set. */
  forAtLeastOnce(counter: Local<"i32">, to: I32, step: I32, body: () => void): void {
    this.doWhile(
      () => {
        body();
        this.set(counter, i32.add(counter, step));
      },
      () => i32.ltS(counter, to),
    );
  }

  /** while (condition) body(). */
  while(condition: () => Expression<"i32">, body: () => void): void {
    this.if(condition(), () => this.doWhile(body, condition));
  }

  /** The finished function. */
  build(): FunctionBody {
    const constants = [...this.#constants].map(
      ([value, local]): Statement => ({ kind: "set", local, value: apply("f32x4.splat", [value]) }),
    );
    return {
      name: this.name,
      parameters: this.#parameters,
      locals: this.#locals,
      statements: [...constants, ...this.#statements],
    };
  }

  #collect(body: () => void): Statement[] {
    const outer = this.#statements;
    this.#statements = [];
    body();
    const inner = this.#statements;
    this.#statements = outer;
    return inner;
  }
}
