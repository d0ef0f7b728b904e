/**
 * Phasor beside its peers and the limits of the core, in one run: `npm run bench -- [options]` after `npm run build`.
 * `npm ci --prefix bench` installs the peers; those that are missing are left out.
 *
 *   --only LIST      sections (engine, training, caches), groups or ids of work (see work.mjs)
 *   --peers LIST     contenders: ours, ours@24, ort-node, ort-web, tfjs, jax
 *   --threads LIST   1, or 1,2 to measure ours on two threads as well (default)
 *   --rounds N       turns of every contender (default 7)
 *   --write FILE     replace the measurements of whole sections in a Markdown file, and keep their records in
 *                    results/recorded*.json
 *
 * Every contender has a process of its own (host.mjs). All take turns, with the limits measured in every round; ratios
 * and shares are taken within a round, and medians over the rounds.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import os from "node:os";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { openContenders } from "./contenders.mjs";
import { checkFigures, markdown } from "./report.mjs";
import { WORK } from "./work.mjs";

const { values: options } = parseArgs({
  options: {
    only: { type: "string" },
    peers: { type: "string" },
    threads: { type: "string", default: "1,2" },
    rounds: { type: "string", default: "7" },
    write: { type: "string" },
  },
});
const rounds = Number(options.rounds);
if (!Number.isInteger(rounds) || rounds < 1)
  throw new Error(`--rounds must be a positive integer; got ${options.rounds}`);
const only = options.only?.split(",");
const sectionOf = ({ section = "engine" }) => section;
const names = (work) => [sectionOf(work), work.group, work.id];
const chosen = WORK.filter((work) => !only || names(work).some((name) => only.includes(name)));
if (chosen.length === 0) {
  throw new Error(`--only must name some of ${[...new Set(WORK.flatMap((work) => names(work).slice(0, 2)))]}`);
}
const sections = [...new Set(chosen.map(sectionOf))];

/** Measurements of a section stand between such lines. */
const marked = (section) => {
  const mark = section === "engine" ? "bench" : `bench:${section}`;
  return new RegExp(`(<!-- ${mark}:begin -->)[\\s\\S]*(<!-- ${mark}:end -->)`);
};
if (options.write) {
  const text = readFileSync(options.write, "utf8");
  for (const section of sections) {
    if (!marked(section).test(text)) throw new Error(`${options.write} has no marks of the section ${section}`);
    if (WORK.some((work) => sectionOf(work) === section && !chosen.includes(work))) {
      throw new Error(`--write replaces whole sections; --only leaves out some of ${section}`);
    }
  }
}

/** Calls longer than this are made in few rounds, and only those of a peer's best formulation. */
const LONG_MS = 800;
const LONG_ROUNDS = 2;
/** A formulation that is so much slower than its peer's best is not measured, unless a figure names it. */
const SLOW = 1.6;
/** One that is so much slower is not tried again on like work. */
const HOPELESS = 4;
/** Largest difference from our result, as a share of the largest number in it. */
const TOLERANCE = 1e-4;

const named = new Set(WORK.flatMap(({ figures }) => figures.flatMap(({ against = [] }) => against)));
/** Formulations not to try again. */
const hopeless = new Set();
const likeness = ({ kind, dims }) => `${kind} ${dims.Tq === 1} ${dims.Hk}`;
const median = (values) => values.toSorted((a, b) => a - b)[(values.length - 1) >> 1];
const say = (line) => process.stderr.write(`${line}\n`);

function largestDifference(got, want) {
  if (got.length !== want.length) return Infinity;
  let difference = 0;
  let size = 0;
  for (let i = 0; i < want.length; i++) {
    const one = Math.abs(got[i] - want[i]);
    if (!(one <= difference)) difference = one; // NaN is kept
    size = Math.max(size, Math.abs(want[i]));
  }
  return difference / size;
}

/** Makes everyone ready for the work, and says who is measured. */
async function prepare(work, hosts) {
  const entries = [];
  let want;
  for (const host of hosts) {
    const { label } = host;
    const ours = label.startsWith("ours");
    if (!ours && work.peers && !work.peers.includes(label)) continue;
    if (work.alone && label !== "ours") continue;
    if (label === "ours ×2" && !work.threads && !work.figures.some(({ of }) => of === "threads")) continue;
    const skip = [...hopeless]
      .filter((key) => key.startsWith(`${likeness(work)} ${label}: `))
      .map((key) => key.split(": ")[1]);
    const found = [];
    for (const { name, time, output, error, notes } of await host.ask({ command: "prepare", work, skip })) {
      const key = ours && name === "phasor" ? label : `${label}: ${name}`;
      const entry = { key, label, name, host, times: [], ...(notes && { notes }) };
      entries.push(entry);
      if (error) {
        entry.error = error;
        continue;
      }
      want ??= output;
      const difference = output ? largestDifference(output, want) : 0; // some are not meant to be the same
      if (difference < TOLERANCE) found.push({ entry, time });
      else {
        entry.error = `differs from ours by ${difference.toExponential(1)} of the largest number`;
        process.exitCode = 1;
      }
    }
    const best = Math.min(...found.map(({ time }) => time));
    for (const { entry, time } of found) {
      const wanted = named.has(entry.key) || ours;
      const slow = time > SLOW * best || (time > LONG_MS && time > best);
      if (slow && !wanted)
        entry.error = `slower than the best of ${entry.label}: ${time.toFixed(1)} ms in its first calls`;
      if (time > HOPELESS * best && !wanted) hopeless.add(`${likeness(work)} ${entry.key}`);
    }
  }
  for (const { key, error } of entries) if (error) say(`  ${key}: ${error}`);
  return entries;
}

/** Turns of all, every round starting with another. */
async function measure(work, hosts) {
  const entries = await prepare(work, hosts);
  const running = entries.filter(({ error }) => !error);
  const limits = [];
  for (let round = 0; round < Math.max(rounds, work.rounds ?? 0); round++) {
    limits.push(await hosts[0].ask({ command: "limits" }));
    for (let turn = 0; turn < running.length; turn++) {
      const { times, host, name } = running[(turn + round) % running.length];
      if (times.length >= (work.longRounds ?? LONG_ROUNDS) && times[0].median > LONG_MS) continue;
      times[round] = await host.ask({ command: "measure", name });
    }
  }
  for (const host of hosts) await host.ask({ command: "drop" });
  const contenders = entries.map(({ key, label, error, times, notes }) => ({
    key,
    label,
    ...(error ? { error } : summary(times.filter(Boolean))),
    ...(error ? {} : { rounds: times }),
    ...(notes && { notes }),
  }));
  return { ...work, limits, contenders };
}

const summary = (times) => ({
  median: median(times.map((one) => one.median)),
  min: Math.min(...times.map((one) => one.min)),
});

const { hosts, missing } = await openContenders({
  peers: options.peers?.split(","),
  threads: options.threads.split(",").map(Number),
});
for (const line of missing) say(line);
const results = [];
for (const work of chosen) {
  const start = performance.now();
  say(work.id);
  const result = await measure(work, hosts);
  results.push({ ...result, seconds: (performance.now() - start) / 1000 });
  say(`  ${results.at(-1).seconds.toFixed(1)} s`);
}
for (const host of hosts) host.close();

const host = {
  date: new Date().toISOString().slice(0, 10),
  processor: os.cpus()[0].model.trim(),
  cores: os.availableParallelism(),
  system: `${os.platform()} ${os.arch()}`,
  rounds,
  contenders: hosts.map(({ label, version, node }) => ({ label, version, node })),
  missing,
};
const folder = new URL("results/", import.meta.url);
mkdirSync(folder, { recursive: true });
const stamp = new Date().toISOString().replaceAll(":", "-");
for (const section of sections) {
  const part = results.filter((result) => sectionOf(result) === section);
  const seconds = Math.round(part.reduce((sum, one) => sum + one.seconds, 0));
  const record = { ...host, section, seconds, figures: checkFigures(part), results: part };
  const table = markdown(record);
  process.stdout.write(`${table}\n\n`);
  const suffix = section === "engine" ? "" : `-${section}`;
  const file = new URL(options.write ? `recorded${suffix}.json` : `${stamp}${suffix}.json`, folder);
  writeFileSync(file, `${JSON.stringify(record, null, 1)}\n`);
  say(`record: ${fileURLToPath(file)}`);
  if (!options.write) continue;
  const text = readFileSync(options.write, "utf8"); // again: it may have changed meanwhile
  writeFileSync(
    options.write,
    text.replace(marked(section), (_, begin, end) => `${begin}\n${table}\n${end}`),
  );
}
