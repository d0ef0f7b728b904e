/** Where modules compute norms and gradients: in f64, on the caller's thread. */

import type { TrainingBackend } from "../engine/index.ts";
import { createReferenceTrainingBackend } from "../engine/reference/training-backend.ts";

/** Operations on tensors of any origin; it keeps nothing. */
export const host: TrainingBackend = createReferenceTrainingBackend();
