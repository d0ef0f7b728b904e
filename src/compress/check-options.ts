/** Checks of the numbers that policies are made with. */

import { ConfigError } from "../errors.ts";

/**
 * Refuses anything but a whole number of at least `min`.
 *
 * @throws ConfigError naming the option
 */
export function checkWhole(where: string, options: Readonly<Record<string, number>>, min: number): void {
  for (const [name, value] of Object.entries(options)) {
    if (!Number.isSafeInteger(value) || value < min) {
      throw new ConfigError(where, `${name} must be a whole number, at least ${min}`, { [name]: value });
    }
  }
}

/**
 * Refuses anything but a number from `min` to `max`.
 *
 * @throws ConfigError naming the option
 */
export function checkRange(where: string, options: Readonly<Record<string, number>>, min: number, max: number): void {
  for (const [name, value] of Object.entries(options)) {
    if (!(value >= min && value <= max)) {
      throw new ConfigError(where, `${name} must lie between ${min} and ${max}`, { [name]: value });
    }
  }
}

/**
 * Refuses an average-pooling kernel that has no middle.
 *
 * @throws ConfigError when the kernel is not an odd whole number
 */
export function checkKernel(where: string, kernel: number): void {
  if (!Number.isSafeInteger(kernel) || kernel < 1 || kernel % 2 === 0) {
    throw new ConfigError(where, "kernel must be an odd whole number", { kernel });
  }
}
