/**
 * The pre-pass that turns a wish for fewer keys into lists of keys.
 */

import { ConfigError } from "../errors.ts";
import { type IndexerSelect, selectTopKeys } from "./indexer.ts";
import { withDenseKeys } from "./kv-gather.ts";
import { type MobaSelect, selectBlocks } from "./moba.ts";
import { checkSelection, type Selection } from "./selection.ts";
import { type AttentionRequest, type AttentionSpec, normalizeAttention } from "./spec.ts";

/** How to choose keys, or what was chosen earlier. */
export type SelectRequest = MobaSelect | IndexerSelect | Selection;

/**
 * Runs the pre-pass of a request alone. Giving the result as `select` of the same request changes nothing.
 *
 * @param request - see AttentionRequest; `select` is required
 * @returns the chosen blocks or keys
 * @throws ShapeError or ConfigError when the request does not fit together
 */
export function selectKeys(request: AttentionRequest & { select: SelectRequest }): Selection {
  const spec = normalizeAttention(withDenseKeys(request));
  const selection = resolveSelection(spec);
  if (selection === undefined) throw new ConfigError("selectKeys", "the request must have select", {});
  return selection;
}

/** The selection of a spec, if it wants one. */
export function resolveSelection(spec: AttentionSpec): Selection | undefined {
  const { select } = spec;
  if (select === undefined) return undefined;
  switch (select.kind) {
    case "moba":
      return selectBlocks(spec, select);
    case "indexer":
      return selectTopKeys(spec, select);
    case "blocks":
    case "keys":
      checkSelection("attention", select, spec.dims);
      return select;
    default:
      throw new ConfigError("attention", 'select.kind must be "moba", "indexer", "blocks" or "keys"', {
        kind: (select as { kind: unknown }).kind,
      });
  }
}
