import { expect } from "vitest";
import { ModuleBuilder } from "../../src/engine/wasm/assembler/module.ts";
import { detectFeatures } from "../../src/engine/wasm/features.ts";

const features = detectFeatures();

/** The floating modes this runtime has, to run every kernel test in. */
export const MODES: readonly { readonly relaxed: boolean }[] = features.relaxed
  ? [{ relaxed: false }, { relaxed: true }]
  : [{ relaxed: false }];

/** The text of a module, to compare with a snapshot. */
export function listingOf(emit: (module: ModuleBuilder) => void): string {
  const module = new ModuleBuilder({ minimumPages: 1, maximumPages: 1, shared: false });
  emit(module);
  return module.toText();
}

type NumberArray = Float32Array | Int32Array | Uint32Array | Uint16Array | Int8Array | Uint8Array;

type KernelFunction = (...args: number[]) => void;

/** Memory is full of this, so that a stray read gives a number (3.4e38 as f32) that spoils any result. */
const FILLING = 0x7f;
const GAP = 64;

/** A module in a memory of its own, which knows what may be written. */
export class KernelUnderTest {
  readonly #memory: WebAssembly.Memory;
  readonly #exports: Record<string, KernelFunction>;
  readonly #areas: { address: number; bytes: number }[] = [];
  #end = GAP;

  constructor(emit: (module: ModuleBuilder) => void, { pages = 16 }: { pages?: number } = {}) {
    const module = new ModuleBuilder({ minimumPages: 1, maximumPages: 65536, shared: false });
    emit(module);
    this.#memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
    this.#bytes.fill(FILLING);
    const instance = new WebAssembly.Instance(new WebAssembly.Module(module.toBytes()), {
      env: { memory: this.#memory },
    });
    this.#exports = instance.exports as Record<string, KernelFunction>;
  }

  get #bytes(): Uint8Array {
    return new Uint8Array(this.#memory.buffer);
  }

  /** Copies numbers into memory; the address is a multiple of 16. */
  put(data: NumberArray): number {
    const address = this.reserve(data.byteLength);
    this.#bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), address);
    return address;
  }

  /** Memory to be written; starts out as filling. */
  reserve(bytes: number): number {
    const address = this.#end;
    this.#areas.push({ address, bytes });
    this.#end = Math.ceil((address + bytes + GAP) / 16) * 16;
    if (this.#end > this.#bytes.length) throw new RangeError("KernelUnderTest: more pages are needed");
    return address;
  }

  /** The last bytes of memory, to find reads behind the end. */
  putLast(data: NumberArray): number {
    const address = this.#bytes.length - data.byteLength;
    this.#areas.push({ address, bytes: data.byteLength });
    this.#bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), address);
    return address;
  }

  /** Calls a function and checks that nothing outside the areas was written. */
  call(name: string, ...args: number[]): void {
    this.#exports[name](...args);
    const rest = this.#bytes.slice();
    for (const { address, bytes } of this.#areas) rest.fill(FILLING, address, address + bytes);
    if (Buffer.compare(rest, Buffer.alloc(rest.length, FILLING)) === 0) return;
    expect.fail(`${name} wrote outside its areas, at ${rest.findIndex((byte) => byte !== FILLING)}`);
  }

  /** A copy of what lies at an address. */
  f32(address: number, length: number): Float32Array {
    return new Float32Array(this.#memory.buffer.slice(address, address + 4 * length));
  }

  /** A copy of the bytes at an address. */
  u8(address: number, length: number): Uint8Array {
    return this.#bytes.slice(address, address + length);
  }
}

/** Reproducible numbers between −1 and 1. */
export function randomNumbers(length: number, seed: number): Float32Array {
  let state = seed * 2654435761 + 1;
  return Float32Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state / 2 ** 31 - 1) as number;
  });
}
