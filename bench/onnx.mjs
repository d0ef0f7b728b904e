/**
 * Just enough of the ONNX file format to write the graphs that are measured.
 *
 * @see https://github.com/onnx/onnx/blob/main/onnx/onnx.proto field numbers
 */

const FLOAT = 1;

/** @param {number} value a whole number, at least 0 */
function varint(value) {
  const bytes = [];
  for (let rest = BigInt(value); ; rest >>= 7n) {
    if (rest < 128n) return Uint8Array.from([...bytes, Number(rest)]);
    bytes.push(Number(rest & 127n) | 128);
  }
}

/** @param {Uint8Array[]} parts */
function join(parts) {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

const number = (field, value) => join([varint(field << 3), varint(value)]);
const single = (field, value) => join([varint((field << 3) | 5), new Uint8Array(Float32Array.of(value).buffer)]);
const bytes = (field, value) => join([varint((field << 3) | 2), varint(value.length), value]);
const text = (field, value) => bytes(field, new TextEncoder().encode(value));
const message = (field, ...parts) => bytes(field, join(parts));

/** Integers unless wrapped: an ONNX attribute is of one type or the other, whatever its value. */
export const float = (value) => ({ float: value });

function attribute(name, value) {
  if (Array.isArray(value)) return message(5, text(1, name), ...value.map((one) => number(8, one)), number(20, 7));
  if (typeof value === "object") return message(5, text(1, name), single(2, value.float), number(20, 1));
  return message(5, text(1, name), number(3, value), number(20, 2));
}

/**
 * One operation. An empty input name leaves an optional input out.
 *
 * @param {string} type `Operator`, or `domain:Operator`
 * @param {string[]} inputs
 * @param {string[]} outputs
 * @param {Record<string, number | number[] | {float: number}>} [attributes]
 */
export function node(type, inputs, outputs, attributes = {}) {
  const [operator, domain = ""] = type.split(":").reverse();
  return message(
    1,
    ...inputs.map((name) => text(1, name)),
    ...outputs.map((name) => text(2, name)),
    text(4, operator),
    ...Object.entries(attributes).map(([name, value]) => attribute(name, value)),
    text(7, domain),
  );
}

/** Dimensions that are names are symbolic. */
function valueInfo(field, name, { type = FLOAT, shape }) {
  const dims = shape.map((size) => message(1, typeof size === "string" ? text(2, size) : number(1, size)));
  return message(field, text(1, name), message(2, message(1, number(1, type), message(2, ...dims))));
}

function initializer(name, { type = FLOAT, shape, data }) {
  const raw = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return message(5, ...shape.map((size) => number(1, size)), number(2, type), text(8, name), bytes(9, raw));
}

/** @typedef {{type?: number, shape: (number | string)[]}} Value */

/**
 * A model file.
 *
 * @param {object} graph
 * @param {Uint8Array[]} graph.nodes
 * @param {Record<string, Value>} graph.inputs
 * @param {Record<string, Value>} graph.outputs
 * @param {Record<string, {type?: number, shape: number[], data: ArrayBufferView}>} [graph.constants]
 */
export function model({ nodes, inputs, outputs, constants = {} }) {
  return join([
    number(1, 10),
    message(
      7,
      ...nodes,
      text(2, "work"),
      ...Object.entries(constants).map(([name, value]) => initializer(name, value)),
      ...Object.entries(inputs).map(([name, value]) => valueInfo(11, name, value)),
      ...Object.entries(outputs).map(([name, value]) => valueInfo(12, name, value)),
    ),
    message(8, text(1, ""), number(2, 23)),
    message(8, text(1, "com.microsoft"), number(2, 1)),
  ]);
}

/** Element types of ONNX. */
export const INT32 = 6;
export const INT64 = 7;
export const BOOL = 9;
