/** The architectures that can be loaded. */

import type { ConfigReader } from "../../config-reader.ts";
import { ConfigError } from "../../errors.ts";
import type { Family } from "./family.ts";
import { llama } from "./llama.ts";
import { qwen3 } from "./qwen3.ts";

const FAMILIES: readonly Family[] = [llama, qwen3];

/**
 * The family a config.json belongs to.
 *
 * @throws ConfigError when no family serves its `model_type`, or the weights are quantised in a way none reads
 */
export function familyOf(reader: ConfigReader): Family {
  const modelType = reader.string("model_type");
  const family = FAMILIES.find((one) => one.modelTypes.includes(modelType));
  if (family === undefined) {
    const known = FAMILIES.flatMap((one) => one.modelTypes).join(", ");
    throw new ConfigError(
      reader.where,
      `model_type must be one of ${known}`,
      { model_type: modelType },
      "This architecture is not supported yet; CONTRIBUTING.md tells how to add a family.",
    );
  }
  if (reader.has("quantization_config")) {
    throw new ConfigError(
      reader.where,
      "weights must be f32, f16 or bf16",
      { quantization_config: reader.raw("quantization_config") },
      "Use the unquantised checkpoint.",
    );
  }
  return family;
}
