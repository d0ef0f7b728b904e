/** The suites, by the name of the folder that holds them. */

import type { SuiteRunner } from "../case.ts";
import { attention } from "./attention.ts";
import { compression } from "./compression.ts";
import { flax } from "./flax.ts";
import { models } from "./models.ts";
import { rope } from "./rope.ts";

/** Runner of each suite. */
export const suites: Readonly<Record<string, SuiteRunner>> = { attention, compression, flax, models, rope };
