/** Evaluations for people: tables, and charts. */

import { lineChart } from "../line-chart.ts";
import type { EvaluationRow } from "./evaluate.ts";
import { type AnswerPart, answersByDepth, answersByDistance } from "./retrieval.ts";

type Column = { readonly head: string; readonly cell: (row: EvaluationRow) => string };

/** What tells settings apart. */
const SETTING_COLUMNS: readonly Column[] = [
  {
    head: "policy",
    cell: ({ policy, questionAware }) => (policy ?? "full cache") + (questionAware ? " + question" : ""),
  },
  { head: "budget", cell: ({ budget }) => (budget === null ? "" : String(budget)) },
  { head: "re-rotated", cell: ({ policy, rerotate }) => (policy === null ? "" : rerotate ? "yes" : "no") },
  { head: "elements", cell: ({ elements }) => elements },
];

const COLUMNS: readonly Column[] = [
  ...SETTING_COLUMNS,
  { head: "answers", cell: ({ retrieval }) => (retrieval ? percent(retrieval.accuracy) : "") },
  { head: "perplexity", cell: ({ agreement }) => agreement?.perplexity.toFixed(2) ?? "" },
  { head: "KL", cell: ({ agreement }) => agreement?.divergence.toFixed(3) ?? "" },
  { head: "same best", cell: ({ agreement }) => (agreement ? percent(agreement.sameBest) : "") },
  { head: "peak bytes", cell: ({ peakBytes }) => (peakBytes === undefined ? "" : peakBytes.toLocaleString("en-US")) },
  { head: "tokens/s", cell: ({ retrieval }) => retrieval?.tokensPerSecond.toFixed(0) ?? "" },
];

/**
 * The rows as a Markdown table; columns without any value are left out, refused rows say why.
 *
 * @returns lines that end with a newline
 */
export function evaluationTable(rows: readonly EvaluationRow[]): string {
  const measured = rows.filter((row) => row.refused === undefined);
  const columns = filled(COLUMNS, measured);
  const body = measured.map((row) => columns.map(({ cell }) => cell(row)));
  const refused = rows.filter((row) => row.refused !== undefined);
  const reasons = [...new Set(refused.map((row) => `- ${settingName(row)}: ${row.refused}\n`))];
  const table = measured.length === 0 ? "" : markdownTable([columns.map(({ head }) => head), ...body]);
  return table + (reasons.length === 0 ? "" : `\nRefused:\n\n${reasons.join("")}`);
}

/**
 * Exact answers of every setting by where the fact stood, and by its distance from the question, as two Markdown tables;
 * the first line of each says how many questions there were.
 *
 * @returns lines that end with a newline; none where no question was asked
 */
export function retrievalTables(rows: readonly EvaluationRow[]): string {
  return (
    partsTable(rows, "Exact answers by place of the fact in the text:", answersByDepth, ({ from, to }) => {
      return `${Math.round(100 * from)}–${Math.round(100 * to)} %`;
    }) +
    partsTable(rows, "Exact answers by tokens from the fact to the question:", answersByDistance, ({ from, to }) => {
      return `${from.toLocaleString("en-US")}–${to.toLocaleString("en-US")}`;
    })
  );
}

function partsTable(
  rows: readonly EvaluationRow[],
  title: string,
  partsOf: typeof answersByDepth,
  headOf: (part: AnswerPart) => string,
): string {
  const asked = rows.filter((row) => row.retrieval !== undefined);
  const parts = asked.map((row) => partsOf(row.retrieval?.answers ?? []));
  if (asked.length === 0) return "";
  // Every setting is asked the same questions.
  const columns = filled(SETTING_COLUMNS, asked);
  const counts = columns.map((_, n) => (n === 0 ? "questions" : ""));
  return `\n${title}\n\n${markdownTable([
    [...columns.map(({ head }) => head), ...parts[0].map(headOf)],
    [...counts, ...parts[0].map((part) => String(part.asked))],
    ...asked.map((row, n) => [
      ...columns.map(({ cell }) => cell(row)),
      ...parts[n].map(({ accuracy }) => `${Math.round(100 * accuracy)} %`),
    ]),
  ])}`;
}

/** Columns in which some row has a value. */
function filled(columns: readonly Column[], rows: readonly EvaluationRow[]): readonly Column[] {
  return columns.filter(({ cell }) => rows.some((row) => cell(row) !== ""));
}

/** The first line is the head; the first column is aligned to the left. */
function markdownTable([head, ...body]: readonly (readonly string[])[]): string {
  const widths = head.map((cell, n) => Math.max(cell.length, ...body.map((cells) => cells[n].length)));
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, n) => (n === 0 ? cell.padEnd(widths[n]) : cell.padStart(widths[n]))).join(" | ")} |\n`;
  const rule = `| ${widths.map((width, n) => (n === 0 ? "-".repeat(width) : `${"-".repeat(width - 1)}:`)).join(" | ")} |\n`;
  return line(head) + rule + body.map(line).join("");
}

/**
 * Charts of the rows: answers and divergence by budget, answers by depth and by distance. A chart without points is absent.
 *
 * @returns SVG documents by file name
 */
export function evaluationCharts(rows: readonly EvaluationRow[]): Map<string, string> {
  const charts = new Map<string, string>();
  const limited = rows.filter((row) => row.budget !== null && row.refused === undefined);
  const lines = groupBy(limited, lineName);
  const byBudget = (value: (row: EvaluationRow) => number | undefined) =>
    [...lines].flatMap(([name, own]) => {
      const points = own.flatMap((row): (readonly [number, number])[] => {
        const y = value(row);
        return y === undefined || row.budget === null ? [] : [[row.budget, y]];
      });
      const sorted = points.sort(([a], [b]) => a - b);
      return points.length === 0 ? [] : [{ name, points: sorted, dashed: !own[0].rerotate }];
    });
  const answers = byBudget((row) => row.retrieval && 100 * row.retrieval.accuracy);
  const axes = { xLabel: "budget, tokens per head", logX: true };
  if (answers.length > 0) {
    const title = "Facts found by cache budget (dashed: not re-rotated)";
    charts.set(
      "retrieval-by-budget.svg",
      lineChart({ ...axes, title, yLabel: "exact answers, %", yRange: [0, 100], series: answers }),
    );
  }
  const divergences = byBudget((row) => row.agreement?.divergence);
  if (divergences.length > 0) {
    const title = "Distance from the full cache (dashed: not re-rotated)";
    charts.set(
      "divergence-by-budget.svg",
      lineChart({ ...axes, title, yLabel: "KL divergence, nats", series: divergences }),
    );
  }
  const byPart = (partsOf: typeof answersByDepth, unit: number) =>
    rows.flatMap((row) => {
      if (!row.retrieval) return [];
      const points = partsOf(row.retrieval.answers).map(({ from, to, accuracy }) => {
        return [(unit * (from + to)) / 2, 100 * accuracy] as const;
      });
      return [{ name: settingName(row), points, dashed: row.policy !== null && !row.rerotate }];
    });
  for (const [file, title, xLabel, series] of [
    ["retrieval-by-depth.svg", "Facts found by where they stand", "place in the text, %", byPart(answersByDepth, 100)],
    [
      "retrieval-by-distance.svg",
      "Facts found by their distance from the question",
      "tokens from the fact to the question",
      byPart(answersByDistance, 1),
    ],
  ] as const) {
    if (series.length > 0) {
      charts.set(file, lineChart({ title, xLabel, yLabel: "exact answers, %", yRange: [0, 100], series }));
    }
  }
  return charts;
}

/** A setting in a few words. */
export function settingName(row: EvaluationRow): string {
  return row.budget === null ? lineName(row) : `${lineName(row)} ${row.budget}`;
}

function lineName({ policy, rerotate, elements, questionAware }: EvaluationRow): string {
  const words = [policy ?? "full", ...(questionAware ? ["+ question"] : []), ...(rerotate ? ["re-rotated"] : [])];
  if (elements !== "f32") words.push(elements);
  return words.join(" ");
}

function groupBy<T>(items: readonly T[], key: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const group = groups.get(key(item));
    if (group) group.push(item);
    else groups.set(key(item), [item]);
  }
  return groups;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
