/** The golden-data format of cases.json. */

/** Largest difference allowed: |got − want| <= atol + rtol·|want|. */
export type Tolerance = { rtol: number; atol: number };

/** One case; `file` holds its inputs and expected outputs. */
export type GoldenCase = Tolerance & {
  name: string;
  description: string;
  params: Record<string, unknown>;
  /** A safetensors file beside cases.json. */
  file: string;
  /** Tolerances of single outputs, where they differ from the case's. */
  tolerances?: Record<string, Tolerance>;
};

/** Parses cases.json; refuses what is not in the format, so that a bad file cannot pass as an empty suite. */
export function readGoldenCases(text: string): GoldenCase[] {
  const cases: unknown = JSON.parse(text);
  if (!Array.isArray(cases)) throw new Error("cases.json must be a list");
  for (const one of cases) {
    const ok =
      typeof one?.name === "string" &&
      typeof one.file === "string" &&
      typeof one.params === "object" &&
      typeof one.rtol === "number" &&
      typeof one.atol === "number";
    if (!ok) throw new Error(`cases.json: not a golden case: ${JSON.stringify(one).slice(0, 200)}`);
  }
  return cases;
}
