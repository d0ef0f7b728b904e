/** The loss of a classifier. */

import { ConfigError, ShapeError } from "../errors.ts";
import { sizeOf, type Tensor, tensor, zeros } from "../tensor.ts";
import { checkFilled } from "./features.ts";
import { host } from "./host.ts";

/** A loss and where it comes from. */
export type CrossEntropy = {
  /** Mean over the labels that count, in nats. */
  readonly loss: number;
  /** f32 [...], 0 where a label does not count. */
  readonly losses: Tensor<"f32">;
  /** f32 [..., classes], the gradient of `loss`. */
  readonly dLogits: Tensor<"f32">;
};

/**
 * −log softmax(logits)[label]: optax.softmax_cross_entropy_with_integer_labels, its mean, and the gradient of that.
 *
 * @param logits - f32 [..., classes]
 * @param labels - i32 [...]; −1 does not count
 * @throws ShapeError when shapes do not fit, or a label is no class; ConfigError when no label counts
 */
export function crossEntropy(logits: Tensor<"f32">, labels: Tensor<"i32">): CrossEntropy {
  const where = "crossEntropy";
  if (logits.dtype !== "f32" || labels.dtype !== "i32") {
    throw new ShapeError(where, "f32 logits and i32 labels", { logits: logits.dtype, labels: labels.dtype });
  }
  if (logits.shape.length === 0 || logits.shape.slice(0, -1).join() !== labels.shape.join()) {
    throw new ShapeError(where, "logits must be [..., classes] for labels [...]", {
      logits: logits.shape,
      labels: labels.shape,
    });
  }
  checkFilled(where, logits);
  checkFilled(where, labels);
  const classes = logits.shape[logits.shape.length - 1];
  const index = labels.data.findIndex((label) => label < -1 || label >= classes);
  if (index >= 0) {
    const expected = `labels must be from -1 to ${classes - 1}`;
    throw new ShapeError(where, expected, { label: labels.data[index], index });
  }
  const counting = labels.data.reduce((count, label) => count + (label === -1 ? 0 : 1), 0);
  if (counting === 0) throw new ConfigError(where, "at least one label that counts", { labels: sizeOf(labels.shape) });
  const losses = zeros("f32", labels.shape);
  const dLogits = tensor("f32", logits.shape, logits.data.slice());
  host.crossEntropy(losses, dLogits, labels.data, 1 / counting);
  return { loss: losses.data.reduce((sum, loss) => sum + loss, 0) / counting, losses, dLogits };
}
