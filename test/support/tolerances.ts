/**
 * The tolerances of all tests, in one place. A test that needs another one says why where it stands.
 */

/** Values computed in f64 and stored in f32. */
export const F32_STORED = 1e-6;

/** Values that went through a few f32 operations. */
export const F32_COMPUTED = 1e-5;

/** Values computed in f64 throughout. */
export const F64_COMPUTED = 1e-12;
