/** From times to ratios, figures reached or not, and a Markdown table. */

const median = (values) => values.toSorted((a, b) => a - b)[(values.length - 1) >> 1];
const find = (result, key) => result.contenders.find((one) => one.key === key && !one.error);

/** Median over the rounds that both have of their time by ours. */
function ratio(theirs, ours) {
  const shared = theirs.rounds.flatMap((one, round) =>
    one && ours.rounds[round] ? [one.median / ours.rounds[round].median] : [],
  );
  return shared.length > 0 ? median(shared) : theirs.median / ours.median;
}

/** Median of the share of a limit within each round. */
function share(result, contender, limit) {
  const work = limit === "peak" ? result.flop : result.bytes;
  return median(
    contender.rounds.flatMap((one, round) => (one ? [work / one.median / 1e6 / result.limits[round][limit]] : [])),
  );
}

function fastest(result, accept) {
  return result.contenders
    .filter((one) => !one.error && accept(one))
    .reduce((best, one) => (best === undefined || one.median < best.median ? one : best), undefined);
}

const MEASURES = {
  peak: (result, ours) => ({ text: "of the FMA peak", value: share(result, ours, "peak") }),
  read: (result, ours) => ({ text: "of the read bandwidth", value: share(result, ours, "read") }),
  ratio: (result, ours, { against, without }) => {
    const accept = ({ key, label }) =>
      (against.includes(key) || against.includes(label)) && !(without && key.includes(without));
    const best = fastest(result, accept);
    return { text: `× ${best?.key ?? against.join(", ")}`, value: best && ratio(best, ours) };
  },
  // By shares of the peak, since two pieces of work are not measured in the same rounds.
  "per-flop": (result, ours, { than }, results) => {
    const other = results.find(({ id }) => id === than);
    const theirs = other && find(other, "ours");
    return {
      text: `speed per FLOP of \`${than}\``,
      value: theirs && share(result, ours, "peak") / share(other, theirs, "peak"),
    };
  },
  time: (_, ours, { than }, results) => {
    const other = results.find(({ id }) => id === than);
    const theirs = other && find(other, "ours");
    return { text: `× f32`, value: theirs && theirs.median / ours.median };
  },
  threads: (result, ours) => {
    const two = find(result, "ours ×2");
    return { text: "× one thread, on two", value: two && ratio(ours, two) };
  },
  overhead: (_, ours) => ({ text: "µs over the kernel", value: ours.notes?.overheadMicroseconds }),
  extra: (result, ours, { name }) => {
    const other = find(result, `ours: ${name}`);
    // Shortest calls: a small difference of the same code is lost in what else the machine does.
    return { text: `of the time more, in the shortest calls: ${name}`, value: other && 1 - ours.min / other.min };
  },
  compressing: (result, _, { name }) => ({
    text: `of the time compressing: ${name}`,
    value: find(result, `ours: ${name}`)?.notes?.compressingShare,
  }),
  bytes: (_, ours) => ({ text: "× the bytes of f32", value: ours.notes?.cacheBytesOfF32 }),
};

/** Every figure to reach with what was measured; `reached` is absent where it could not be. */
export function checkFigures(results) {
  return results.flatMap((result) => {
    const ours = find(result, "ours");
    return result.figures.map((figure) => {
      const { text, value } = ours ? MEASURES[figure.of](result, ours, figure, results) : { text: figure.of };
      const wanted = figure.atLeast ?? figure.atMost;
      const reached = value === undefined ? undefined : figure.atLeast ? value >= wanted : value <= wanted;
      return {
        id: result.id,
        name: result.name,
        goal: `${figure.atLeast ? "≥" : "≤"} ${wanted} ${text}`,
        value,
        reached,
      };
    });
  });
}

const digits = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2));
const milliseconds = (time) =>
  time >= 1000 ? `${(time / 1000).toFixed(1)} s` : time < 0.1 ? `${(time * 1000).toFixed(1)} µs` : `${digits(time)} ms`;
const row = (cells) => `| ${cells.join(" | ")} |`;
const table = (head, rows) => [row(head), row(head.map(() => "---")), ...rows.map(row)].join("\n");

const PEERS = ["ort-node", "ort-web", "tfjs", "jax"];

/** Time of a contender's best formulation, and its ratio to ours. */
function peerCell(result, label) {
  const ours = find(result, "ours");
  const best = label.startsWith("ours") ? find(result, label) : fastest(result, (one) => one.label === label);
  if (!best) return "";
  const name = best.key.split(": ")[1];
  return `${milliseconds(best.median)}, ${digits(ratio(best, ours))}×${name ? ` (${name})` : ""}`;
}

/** Speed and shares of ours, and everyone's best. */
function times({ contenders, results }, labels = ["ours@24", ...PEERS]) {
  const takesPart = (label) => results.some((result) => result.contenders.some((one) => one.label === label));
  const others = labels.filter((label) => takesPart(label) && contenders.some((one) => one.label === label));
  return table(
    ["work", "ours", "GFLOP/s", "of peak", "GB/s", "of read", ...others],
    results.map((result) => {
      const ours = find(result, "ours");
      const speed = (work) => (work ? digits(work / ours.median / 1e6) : "");
      const part = (work, limit) => (work ? share(result, ours, limit).toFixed(2) : "");
      return [
        result.name,
        milliseconds(ours.median),
        speed(result.flop),
        part(result.flop, "peak"),
        speed(result.bytes),
        part(result.bytes, "read"),
        ...others.map((label) => peerCell(result, label)),
      ];
    }),
  );
}

/** Tokens of training per second. */
function throughput(results) {
  const steps = results.filter(({ kind }) => kind === "training");
  if (steps.length === 0) return [];
  const labels = ["ours", "ours ×2", "ours@24", "jax"].filter((label) =>
    steps.some((result) => fastest(result, (one) => one.label === label)),
  );
  const cell = (result, label) => {
    const best = fastest(result, (one) => one.label === label);
    return best ? digits((1000 * result.dims.B * result.dims.T) / best.median) : "";
  };
  return [
    "",
    "Tokens per second:",
    "",
    table(
      ["", ...labels],
      steps.map((result) => [result.name, ...labels.map((label) => cell(result, label))]),
    ),
  ];
}

/** Formulations of ours beside the first. */
function formulations(results) {
  return results.map((result) => {
    const ours = find(result, "ours");
    const inSteps = ours.notes?.steps !== undefined;
    const rows = result.contenders.map((one) => {
      const name =
        one.key === "ours"
          ? inSteps
            ? "f32, contiguous"
            : "nothing compressed"
          : one.key.split(": ").slice(1).join(": ");
      if (one.error) return [name, one.error];
      const { steps = 1, compressingShare, bytes } = one.notes ?? {};
      const more = inSteps
        ? [digits((1000 * steps) / one.median), (bytes / ours.notes.bytes).toFixed(2)]
        : [compressingShare === undefined ? "" : compressingShare.toFixed(3)];
      return [name, milliseconds(one.median / steps), digits(ratio(one, ours)), ...more];
    });
    const head = inSteps
      ? ["time of a step", "by f32", "steps per second", "bytes by f32"]
      : ["time", "by nothing", "compressing"];
    return `\n**${result.name}**\n\n${table(["cache", ...head], rows)}`;
  });
}

const BODIES = {
  engine: (record) => [TIMES_NOTE, "", times(record), ...overheadNote(record.results)],
  training: (record) => [TIMES_NOTE, "", times(record, ["ours ×2", "ours@24", "jax"]), ...throughput(record.results)],
  caches: ({ results }) => ["Medians, on one thread.", ...formulations(results)],
};
const TIMES_NOTE = "Medians. Behind each peer's time: how many times ours it is, and its fastest formulation.";

/** The measurements as Markdown. */
export function markdown({
  section,
  date,
  processor,
  cores,
  system,
  rounds,
  seconds,
  contenders,
  missing,
  figures,
  results,
}) {
  const limits = results.flatMap((result) => result.limits);
  const range = (name) => {
    const values = limits.map((one) => one[name]);
    return `${digits(median(values))} (${digits(Math.min(...values))} to ${digits(Math.max(...values))})`;
  };
  const measured = results.filter((result) => find(result, "ours"));
  const present = contenders.filter(({ label }) =>
    measured.some((one) => one.contenders.some((c) => c.label === label)),
  );
  const lines = [
    `${date}, ${processor}, ${cores} cores, ${system}. ${rounds} rounds in ${seconds} s. ` +
      present
        .filter(({ label }) => label !== "ours ×2")
        .map(({ label, version, node }) => `${label}: ${version}, Node ${node.slice(1)}`)
        .join("; ") +
      ".",
    ...(missing.length > 0 ? ["", `Not measured: ${missing.join("; ")}.`] : []),
    "",
    `Limits of a core, in the same rounds: multiply-add on 128 bits ${range("peak")} GFLOP/s, reading 96 MiB ${range("read")} GB/s.`,
    "",
    "### Figures",
    "",
    table(
      ["work", "to reach", "measured", "reached"],
      figures.map(({ name, goal, value, reached }) => [
        name,
        goal,
        value === undefined ? "" : value.toFixed(2),
        reached === undefined ? "not measured" : reached ? "yes" : "**no**",
      ]),
    ),
    "",
    "### Times",
    "",
    ...BODIES[section]({ contenders: present, results: measured }),
  ];
  return lines.join("\n");
}

function overheadNote(results) {
  const notes = results
    .flatMap((result) => find(result, "ours")?.notes ?? [])
    .find((one) => "retainedBytesPerCall" in one);
  if (!notes) return [];
  const { retainedBytesPerCall, garbageBytesPerCall } = notes;
  return [
    "",
    `A planned decode step leaves ${garbageBytesPerCall} bytes to the garbage collector; ${retainedBytesPerCall} stay.`,
  ];
}
