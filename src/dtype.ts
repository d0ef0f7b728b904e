/**
 * Element types of tensors, and the conversions of 16-bit floats.
 *
 * `f16` and `bf16` are stored as their bits in a `Uint16Array` (no runtime before Node 24 has `Float16Array`).
 */

/** The element types a tensor can have. */
export type DType = keyof DTypeArrays;

/** The typed array that holds each element type. */
export type DTypeArrays = {
  f64: Float64Array;
  f32: Float32Array;
  /** IEEE half precision, as bits. */
  f16: Uint16Array;
  /** Upper half of an f32, as bits. */
  bf16: Uint16Array;
  i64: BigInt64Array;
  i32: Int32Array;
  i16: Int16Array;
  i8: Int8Array;
  u8: Uint8Array;
};

const CONSTRUCTORS = {
  f64: Float64Array,
  f32: Float32Array,
  f16: Uint16Array,
  bf16: Uint16Array,
  i64: BigInt64Array,
  i32: Int32Array,
  i16: Int16Array,
  i8: Int8Array,
  u8: Uint8Array,
} as const;

/** Bytes of one element. */
export function bytesPerElement(dtype: DType): number {
  return CONSTRUCTORS[dtype].BYTES_PER_ELEMENT;
}

/** A zeroed typed array of `length` elements of `dtype`. */
export function allocate<T extends DType>(dtype: T, length: number): DTypeArrays[T] {
  return new CONSTRUCTORS[dtype](length) as DTypeArrays[T];
}

/**
 * A typed array of `dtype` over existing bytes.
 *
 * @param byteOffset - must be a multiple of the element size, as every typed array demands
 */
export function viewBytes<T extends DType>(
  dtype: T,
  buffer: ArrayBufferLike,
  byteOffset: number,
  length: number,
): DTypeArrays[T] {
  return new CONSTRUCTORS[dtype](buffer as ArrayBuffer, byteOffset, length) as unknown as DTypeArrays[T];
}

/** Whether `data` is the array type that holds `dtype`. */
export function holds(dtype: DType, data: unknown): boolean {
  return data instanceof CONSTRUCTORS[dtype];
}

const word = new Uint32Array(1);
const asFloat = new Float32Array(word.buffer);
const double = new Float64Array(1);
/** Its lower and its upper half: files and runtimes are little-endian. */
const halves = new Uint32Array(double.buffer);

/** The value of IEEE half-precision bits; exact. */
export function f16ToNumber(bits: number): number {
  // Moved to the place of an f32's exponent and fraction, they are 2^−112 times the value; subnormal ones too.
  word[0] = (bits & 0x7fff) << 13;
  const magnitude = (asFloat[0] as number) * 2 ** 112;
  if (magnitude >= 65536) return (bits & 0x3ff) === 0 ? (bits & 0x8000 ? -Infinity : Infinity) : NaN;
  return bits & 0x8000 ? -magnitude : magnitude;
}

/** The half-precision bits nearest to `value` (ties to even); beyond 65504 they are an infinity. */
export function numberToF16(value: number): number {
  if (Number.isNaN(value)) return 0x7e00;
  double[0] = value;
  const high = halves[1] as number;
  const sign = (high >>> 16) & 0x8000;
  const magnitude = Math.abs(value);
  if (magnitude >= 65520) return sign | 0x7c00;
  if (magnitude < 2 ** -14) return sign | roundHalfToEven(magnitude * 2 ** 24); // subnormal, or the first normal
  const exponent = ((high >>> 20) & 0x7ff) - 1023;
  halves[1] = (1023 + 10 - exponent) << 20;
  halves[0] = 0;
  const fraction = roundHalfToEven(magnitude * (double[0] as number)); // magnitude · 2^(10 − exponent): 1024..2048
  return sign | (((exponent + 15) << 10) + (fraction - 1024)); // a carry to 2048 moves into the exponent
}

/** The value of bfloat16 bits; exact. */
export function bf16ToNumber(bits: number): number {
  word[0] = bits << 16;
  return asFloat[0] as number;
}

/** Writes the values of bfloat16 bits; exact. */
export function bf16RowToF32(out: Float32Array, bits: Uint16Array): void {
  const words = new Uint32Array(out.buffer, out.byteOffset, bits.length);
  for (let n = 0; n < bits.length; n++) words[n] = (bits[n] as number) << 16;
}

/** Writes the values of half-precision bits; exact. */
export function f16RowToF32(out: Float32Array, bits: Uint16Array): void {
  const words = new Uint32Array(out.buffer, out.byteOffset, bits.length);
  for (let n = 0; n < bits.length; n++) {
    const half = bits[n] as number;
    words[n] = ((half & 0x8000) << 16) | ((half & 0x7fff) << 13); // see `f16ToNumber`
  }
  for (let n = 0; n < bits.length; n++) {
    const value = (out[n] as number) * 2 ** 112;
    out[n] = Math.abs(value) < 65536 ? value : f16ToNumber(bits[n] as number);
  }
}

/** The bfloat16 bits nearest to `value` rounded to f32 (ties to even). */
export function numberToBf16(value: number): number {
  if (Number.isNaN(value)) return 0x7fc0;
  asFloat[0] = value;
  const bits = word[0] as number;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** The nearest integer; halves go to the even one. */
export function roundHalfToEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}
