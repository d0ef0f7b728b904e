/** Evaluations for people: a table, and charts. */

import { lineChart } from "../line-chart.ts";
import type { EvaluationRow } from "./evaluate.ts";
import { accuracyBy } from "./retrieval.ts";

type Column = { readonly head: string; readonly cell: (row: EvaluationRow) => string };

const COLUMNS: readonly Column[] = [
  {
    head: "policy",
    cell: ({ policy, questionAware }) => (policy ?? "full cache") + (questionAware ? " + question" : ""),
  },
  { head: "budget", cell: ({ budget }) => (budget === null ? "" : String(budget)) },
  { head: "re-rotated", cell: ({ policy, rerotate }) => (policy === null ? "" : rerotate ? "yes" : "no") },
  { head: "elements", cell: ({ elements }) => elements },
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
  const columns = COLUMNS.filter(({ cell }) => measured.some((row) => cell(row) !== ""));
  const body = measured.map((row) => columns.map(({ cell }) => cell(row)));
  const widths = columns.map(({ head }, n) => Math.max(head.length, ...body.map((cells) => cells[n].length)));
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, n) => (n === 0 ? cell.padEnd(widths[n]) : cell.padStart(widths[n]))).join(" | ")} |\n`;
  const rule = `| ${widths.map((width, n) => (n === 0 ? "-".repeat(width) : `${"-".repeat(width - 1)}:`)).join(" | ")} |\n`;
  const refused = rows.filter((row) => row.refused !== undefined);
  const reasons = [...new Set(refused.map((row) => `- ${settingName(row)}: ${row.refused}\n`))];
  const table = measured.length === 0 ? "" : line(columns.map(({ head }) => head)) + rule + body.map(line).join("");
  return table + (reasons.length === 0 ? "" : `\nRefused:\n\n${reasons.join("")}`);
}

/**
 * Charts of the rows: answers and divergence by budget, answers by depth. A chart without points is absent.
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
  const depths = rows.flatMap((row) => {
    if (!row.retrieval) return [];
    const parts = accuracyBy(row.retrieval.answers, "depth", 5);
    const points = parts.map(({ from, to, accuracy }) => [50 * (from + to), 100 * accuracy] as const);
    return [{ name: settingName(row), points, dashed: row.policy !== null && !row.rerotate }];
  });
  if (depths.length > 0) {
    const [title, xLabel] = ["Facts found by where they stand", "place in the text, %"];
    charts.set(
      "retrieval-by-depth.svg",
      lineChart({ title, xLabel, yLabel: "exact answers, %", yRange: [0, 100], series: depths }),
    );
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
