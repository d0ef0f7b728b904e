/** ONNX Runtime, in each formulation of the work it has an operator for. Both its packages take the same models. */
import {
  attentionInputs,
  denseMask,
  headMajor,
  joined,
  numbers,
  rotationTables,
  tokenMajor,
  transposed,
} from "../inputs.mjs";
import { BOOL, float, INT32, INT64, model, node } from "../onnx.mjs";

const OPTIONS = {
  interOpNumThreads: 1,
  graphOptimizationLevel: "all",
  executionMode: "sequential",
  logSeverityLevel: 3,
};

/**
 * @param {any} ort the package
 * @param {string} version
 * @param {{threads: number, preallocate: boolean}} how whether results can be written to tensors that are there
 */
export function ortContender(ort, version, { threads, preallocate }) {
  const options = { ...OPTIONS, intraOpNumThreads: threads };
  const tensor = ({ type = "float32", shape, data }) => new ort.Tensor(type, data, shape);

  /** One formulation: `fetch` holds tensors that results are written to. */
  const formulation = (name, make) => ({
    name,
    create: async () => {
      const { graph, feeds, fetches, read } = make();
      const session = await ort.InferenceSession.create(graph, options);
      const given = Object.fromEntries(Object.entries(feeds).map(([key, value]) => [key, tensor(value)]));
      const written = ([key, value]) => [key, value.same ? given[value.same] : tensor(value)];
      const taken = preallocate
        ? Object.fromEntries(Object.entries(fetches).map(written))
        : Object.keys(fetches).filter((key) => key.startsWith("y"));
      let results;
      return {
        run: async () => {
          results = await session.run(given, taken);
        },
        output: () => read(results),
        dispose: () => session.release(),
      };
    },
  });
  return { version, formulations: (work) => FORMULATIONS[work.kind](work, formulation) };
}

const zeros = (shape) => ({ shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)) });

/** Inputs and outputs of a graph have the names and shapes of what is fed and fetched. */
function declare(values, symbolic = {}) {
  return Object.fromEntries(
    Object.entries(values).map(([name, { shape, type }]) => [
      name,
      { shape: symbolic[name] ?? shape, type: { int32: INT32, int64: INT64, bool: BOOL }[type] },
    ]),
  );
}

const FORMULATIONS = {
  attention: ({ dims, kv }, formulation) => {
    if (kv) return [];
    return [
      formulation("decomposed", () => (dims.Tq === 1 ? decomposed(dims) : headByHead(dims))),
      ...(dims.Tq === 1 ? [formulation("keys first", () => keysFirst(dims))] : []),
      formulation("Attention-23", () => attention23(dims)),
      formulation("GroupQueryAttention", () => groupQuery(dims)),
      ...(dims.document ? [formulation("GroupQueryAttention, documents as a batch", () => batched(dims))] : []),
    ];
  },
  rotate: ({ dims }, formulation) => [
    formulation("RotaryEmbedding-23", () => rotary(dims, "RotaryEmbedding")),
    formulation("com.microsoft RotaryEmbedding", () => rotary(dims, "com.microsoft:RotaryEmbedding")),
  ],
  linear: ({ dims: { tokens, inputs, outputs } }, formulation) => [
    formulation("MatMul", () => {
      const weight = { shape: [inputs, outputs], data: transposed(numbers(inputs * outputs, 2), outputs, inputs) };
      const feeds = { x: { shape: [tokens, inputs], data: numbers(tokens * inputs, 1) } };
      const fetches = { y: zeros([tokens, outputs]) };
      const nodes = [node("MatMul", ["x", "w"], ["y"])];
      const graph = model({ nodes, inputs: declare(feeds), outputs: declare(fetches), constants: { w: weight } });
      return { graph, feeds, fetches, read: ({ y }) => y.data };
    }),
  ],
};

function headMajorFeeds(dims) {
  const { Tq, Tk, H, Hk, D } = dims;
  const { q, k, v } = attentionInputs(dims);
  return {
    q: { shape: [1, H, Tq, D], data: headMajor(q, Tq, H, D) },
    k: { shape: [1, Hk, Tk, D], data: headMajor(k, Tk, Hk, D) },
    v: { shape: [1, Hk, Tk, D], data: headMajor(v, Tk, Hk, D) },
  };
}

const scaledScores = (D) => ({ transB: 1, alpha: float(1 / Math.sqrt(D)) });

/** Decode: two matrix products and a softmax, the heads of a group as rows of one product. */
function decomposed(dims) {
  const { Tk, H, Hk, D } = dims;
  const { q, k, v } = headMajorFeeds(dims);
  const feeds = {
    q: { shape: [Hk, H / Hk, D], data: q.data },
    k: { shape: [Hk, Tk, D], data: k.data },
    v: { shape: [Hk, Tk, D], data: v.data },
  };
  const fetches = { y: zeros(feeds.q.shape) };
  const nodes = [
    node("com.microsoft:FusedMatMul", ["q", "k"], ["s"], scaledScores(D)),
    node("Softmax", ["s"], ["p"], { axis: 2 }),
    node("MatMul", ["p", "v"], ["y"]),
  ];
  const graph = model({ nodes, inputs: declare(feeds), outputs: declare(fetches) });
  return { graph, feeds, fetches, read: ({ y }) => y.data };
}

/** Prefill: the same with a dense mask, a head at a time, so that the scores of all never lie in memory together. */
function headByHead(dims) {
  const { Tq, Tk, H, Hk, D } = dims;
  const { q, k, v } = headMajorFeeds(dims);
  const parts = (name, { data }, count) =>
    Array.from({ length: count }, (_, h) => [
      `${name}${h}`,
      {
        shape: [data.length / count / D, D],
        data: data.slice((h * data.length) / count, ((h + 1) * data.length) / count),
      },
    ]);
  const feeds = Object.fromEntries([...parts("q", q, H), ...parts("k", k, Hk), ...parts("v", v, Hk)]);
  feeds.mask = { shape: [Tq, Tk], data: denseMask(dims) };
  const heads = Array.from({ length: H }, (_, h) => h);
  const fetches = Object.fromEntries(heads.map((h) => [`y${h}`, zeros([Tq, D])]));
  const nodes = heads.flatMap((h) => {
    const kvHead = Math.floor((h * Hk) / H);
    return [
      node("com.microsoft:FusedMatMul", [`q${h}`, `k${kvHead}`], [`s${h}`], scaledScores(D)),
      node("Add", [`s${h}`, "mask"], [`m${h}`]),
      node("Softmax", [`m${h}`], [`p${h}`], { axis: 1 }),
      node("MatMul", [`p${h}`, `v${kvHead}`], [`y${h}`]),
    ];
  });
  const graph = model({ nodes, inputs: declare(feeds), outputs: declare(fetches) });
  const read = (results) => tokenMajor(joined(heads.map((h) => results[`y${h}`].data)), Tq, H, D);
  return { graph, feeds, fetches, read };
}

/** Decode with keys [L, D] as the left operand, so that they are read as they lie. */
function keysFirst(dims) {
  const { Tk, H, Hk, D } = dims;
  const group = H / Hk;
  const { q, k, v } = headMajorFeeds(dims);
  const feeds = {
    q: { shape: [Hk, D, group], data: transposed(q.data, group, D) },
    k: { shape: [Hk, Tk, D], data: k.data },
    v: { shape: [Hk, Tk, D], data: v.data },
  };
  const fetches = { y: zeros([Hk, group, D]) };
  const nodes = [
    node("com.microsoft:FusedMatMul", ["k", "q"], ["t"], { alpha: float(1 / Math.sqrt(D)) }),
    node("Transpose", ["t"], ["s"], { perm: [0, 2, 1] }),
    node("Softmax", ["s"], ["p"], { axis: 2 }),
    node("MatMul", ["p", "v"], ["y"]),
  ];
  const graph = model({ nodes, inputs: declare(feeds), outputs: declare(fetches) });
  return { graph, feeds, fetches, read: ({ y }) => tokenMajor(y.data, 1, H, D) };
}

/** The operator of the standard. */
function attention23(dims) {
  const { Tq, Tk, H, D, window, document } = dims;
  const feeds = headMajorFeeds(dims);
  const masked = window !== undefined || document !== undefined;
  if (masked) feeds.mask = { shape: [Tq, Tk], data: denseMask(dims) };
  const fetches = { y: zeros([1, H, Tq, D]) };
  const nodes = [
    node("Attention", ["q", "k", "v", ...(masked ? ["mask"] : [])], ["y"], {
      is_causal: !masked && Tq > 1 ? 1 : 0,
      scale: float(1 / Math.sqrt(D)),
    }),
  ];
  const graph = model({ nodes, inputs: declare(feeds), outputs: declare(fetches) });
  return { graph, feeds, fetches, read: ({ y }) => tokenMajor(y.data, Tq, H, D) };
}

/** The operator for decoders. In decode the last key is appended to a cache that is both past and present. */
function groupQuery(dims) {
  const { Tq, Tk, H, Hk, D, window, document } = dims;
  const { q, k, v } = attentionInputs(dims);
  const past = Tq < Tk;
  const cache = [1, Hk, Tk, D];
  const tail = (x) => ({ shape: [1, Tq, Hk * D], data: x.slice((Tk - Tq) * Hk * D) });
  const feeds = {
    query: { shape: [1, Tq, H * D], data: q },
    key: tail(k),
    value: tail(v),
    ...(past && {
      past_key: { shape: cache, data: headMajor(k, Tk, Hk, D) },
      past_value: { shape: cache, data: headMajor(v, Tk, Hk, D) },
    }),
    seqlens_k: { type: "int32", shape: [1], data: Int32Array.of(Tk - 1) },
    total: { type: "int32", shape: [], data: Int32Array.of(Tk) },
    ...(document && { bias: { shape: [1, 1, Tq, Tk], data: denseMask(dims) } }),
  };
  const fetches = {
    y: zeros([1, Tq, H * D]),
    present_key: past ? { shape: cache, same: "past_key" } : zeros(cache),
    present_value: past ? { shape: cache, same: "past_value" } : zeros(cache),
  };
  const symbolic = {
    past_key: [1, Hk, "past", D],
    past_value: [1, Hk, "past", D],
    present_key: [1, Hk, "present", D],
    present_value: [1, Hk, "present", D],
  };
  const inputs = ["query", "key", "value", past ? "past_key" : "", past ? "past_value" : "", "seqlens_k", "total"];
  const nodes = [
    node(
      "com.microsoft:GroupQueryAttention",
      document ? [...inputs, "", "", "", "bias"] : inputs,
      ["y", "present_key", "present_value"],
      { num_heads: H, kv_num_heads: Hk, scale: float(1 / Math.sqrt(D)), ...(window && { local_window_size: window }) },
    ),
  ];
  const graph = model({ nodes, inputs: declare(feeds, symbolic), outputs: declare(fetches, symbolic) });
  return { nodes, graph, feeds, fetches, read: ({ y }) => y.data };
}

/** Documents of equal length as the entries of a batch: no mask but the causal one. */
function batched({ Tq, Tk, H, Hk, D, document }) {
  const whole = groupQuery({ Tq, Tk, H, Hk, D });
  const documents = Tq / document;
  const rows = (value, heads) => ({ ...value, shape: [documents, document, heads * D] });
  const { query, key, value } = whole.feeds;
  const cache = zeros([documents, Hk, document, D]);
  const feeds = {
    query: rows(query, H),
    key: rows(key, Hk),
    value: rows(value, Hk),
    seqlens_k: { type: "int32", shape: [documents], data: new Int32Array(documents).fill(document - 1) },
    total: { type: "int32", shape: [], data: Int32Array.of(document) },
  };
  const fetches = { y: rows(zeros([Tq, H * D]), H), present_key: cache, present_value: zeros(cache.shape) };
  const graph = model({ nodes: whole.nodes, inputs: declare(feeds), outputs: declare(fetches) });
  return { graph, feeds, fetches, read: whole.read };
}

function rotary({ heads, T, D }, operator) {
  const { cos, sin } = rotationTables(T, D);
  const tables = { cos: { shape: [T, D / 2], data: cos }, sin: { shape: [T, D / 2], data: sin } };
  const ids = { type: "int64", shape: [1, T], data: BigInt64Array.from({ length: T }, (_, i) => BigInt(i)) };
  const x = { shape: [1, heads, T, D], data: headMajor(numbers(T * heads * D, 1), T, heads, D) };
  const microsoft = operator.includes(":");
  const feeds = { x, ids };
  const fetches = { y: zeros(x.shape) };
  const nodes = [node(operator, microsoft ? ["x", "ids", "cos", "sin"] : ["x", "cos", "sin", "ids"], ["y"])];
  const graph = model({ nodes, inputs: declare(feeds), outputs: declare(fetches), constants: tables });
  return { graph, feeds, fetches, read: ({ y }) => tokenMajor(y.data, T, heads, D) };
}
