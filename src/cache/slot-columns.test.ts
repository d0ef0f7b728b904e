import { describe, expect, it } from "vitest";
import { SlotColumns } from "./slot-columns.ts";
import { SlotVersions } from "./slot-versions.ts";

const list = (...numbers: number[]): Int32Array => Int32Array.from(numbers);

function columns(versions = new SlotVersions()): SlotColumns {
  return new SlotColumns(2, (needed) => needed, versions);
}

describe("what columns know of their order", () => {
  it("is lost when a position falls or a segment differs, and found again when those slots go", () => {
    const slots = columns();
    slots.append([list(3, 3, 8), list(0, 0, 0)]);
    expect(slots.order).toMatchObject({ ascending: true, segment: 0 });
    slots.append([list(7), list(1)]);
    expect(slots.order).toMatchObject({ ascending: false, segment: undefined });
    slots.keep(list(0, 3));
    expect(slots.order).toMatchObject({ ascending: true, segment: undefined });
    slots.keep(list(1));
    expect(slots.order).toMatchObject({ ascending: true, segment: 1 });
  });

  it("starts afresh when nothing is left", () => {
    const slots = columns();
    slots.append([list(5, 2), list(0, 1)]);
    slots.crop(0);
    slots.append([list(1, 2), list(4, 4)]);
    expect(slots.order).toMatchObject({ ascending: true, segment: 4 });
  });

  it("follows positions that are replaced", () => {
    const slots = columns();
    slots.append([list(1, 2), list(0, 0)]);
    const { version } = slots.order;
    slots.replace(0, list(9, 2));
    expect(slots.order.ascending).toBe(false);
    expect(slots.order.version).not.toBe(version);
  });
});

describe("versions", () => {
  it("are the same for columns that went through equal changes, one after the other", () => {
    const versions = new SlotVersions();
    const layers = [columns(versions), columns(versions), columns(versions)];
    const positions = list(0, 1, 2);
    for (const layer of layers) layer.append([positions, list(0, 0, 0)]);
    for (const layer of layers) layer.drop(1);
    for (const layer of layers) layer.append([list(3), list(0)]);
    const [first, ...others] = layers.map((layer) => layer.order.version);
    expect(others.every((version) => version === first)).toBe(true);
    expect(first).not.toBe(versions.empty);
  });

  it("differ when the caller's list was changed in between", () => {
    const versions = new SlotVersions();
    const [a, b] = [columns(versions), columns(versions)];
    const positions = list(0, 1);
    a.append([positions, list(0, 0)]);
    positions[1] = 7;
    b.append([positions, list(0, 0)]);
    expect(a.order.version).not.toBe(b.order.version);
  });

  it("differ after different changes of equal slots", () => {
    const versions = new SlotVersions();
    const [a, b] = [columns(versions), columns(versions)];
    for (const slots of [a, b]) slots.append([list(0, 1, 2), list(0, 0, 0)]);
    a.keep(list(0, 1));
    b.keep(list(0, 2));
    expect(a.order.version).not.toBe(b.order.version);
  });
});
