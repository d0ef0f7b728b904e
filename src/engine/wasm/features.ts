/**
 * What the WebAssembly of this runtime can do.
 */

import { apply, i32, v128 } from "./assembler/expression.ts";
import type { FunctionBuilder } from "./assembler/function.ts";
import { ModuleBuilder } from "./assembler/module.ts";

/** Abilities that decide which kernels are generated and how they run. */
export type WasmFeatures = {
  /** 128-bit vectors; without them there is no WASM engine. */
  readonly simd: boolean;
  /** Fused multiply-add. */
  readonly relaxed: boolean;
  /** Atomic instructions on a memory that workers share. */
  readonly threads: boolean;
  /** Such a memory can be made here; browsers demand cross-origin isolation. */
  readonly sharedMemory: boolean;
};

/** Finds out what this runtime can do; on Node 20 it first turns relaxed SIMD on for the whole process. */
export function detectFeatures(): WasmFeatures {
  const address = i32.const(0);
  const simd = isValid((f) => f.storeVector(address, v128.load(address)));
  const relaxedValid = (): boolean =>
    isValid((f) => {
      const x = v128.load(address);
      f.storeVector(address, apply("f32x4.relaxed_madd", [x, x, x]));
    });
  if (simd && !relaxedValid()) setV8Flag("--experimental-wasm-relaxed-simd");
  const threads = isValid((f) => f.run(i32.atomicAdd(address, 1)), true);
  return { simd, relaxed: simd && relaxedValid(), threads, sharedMemory: threads && canShareMemory() };
}

function isValid(build: (f: FunctionBuilder) => void, shared = false): boolean {
  const module = new ModuleBuilder({ minimumPages: 1, maximumPages: 1, shared });
  module.function("probe", build);
  return WebAssembly.validate(module.toBytes());
}

function canShareMemory(): boolean {
  try {
    const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
    return typeof SharedArrayBuffer !== "undefined" && memory.buffer instanceof SharedArrayBuffer;
  } catch {
    return false;
  }
}

type NodeProcess = { getBuiltinModule?: (name: string) => unknown };

/** Sets a flag where V8 is Node's; elsewhere does nothing. */
function setV8Flag(flag: string): void {
  const node = (globalThis as { process?: NodeProcess }).process;
  const v8 = node?.getBuiltinModule?.("node:v8") as { setFlagsFromString?: (flags: string) => void } | undefined;
  try {
    v8?.setFlagsFromString?.(flag);
  } catch {
    // A runtime that refuses flags works without them.
  }
}
