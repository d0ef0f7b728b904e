/** Weight files: where their bytes come from, and what they hold. `file-source.ts` (disk) is imported on its own. */

export { ByteReader } from "../../byte-reader.ts";
export { type Checkpoint, openCheckpoint } from "./checkpoint.ts";
export { createHttpFiles, createHttpSource, type HttpOptions } from "./http-source.ts";
export { createMemoryFiles, createMemorySource } from "./memory-source.ts";
export { openSafetensors, type SafetensorsFile, type TensorInfo } from "./safetensors.ts";
export { createModelFiles, type ModelFiles, type WeightSource } from "./source.ts";
export { writeSafetensors } from "./write-safetensors.ts";
