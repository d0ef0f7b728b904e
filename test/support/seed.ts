/**
 * The seed of all property tests: fixed, so that the same commit always gives the same result. To look for new
 * counterexamples, run with PHASOR_TEST_SEED=random (the seed is printed by a failing test) or with a number.
 */

import fc from "fast-check";

const wanted = process.env.PHASOR_TEST_SEED ?? "20261122";

if (wanted !== "random") fc.configureGlobal({ seed: Number(wanted) });
