/** Where attention and the operations around it run. */

export type { Activation, AttendCall, Backend, RotationTable } from "./backend.ts";
export { createReferenceBackend } from "./reference/backend.ts";
