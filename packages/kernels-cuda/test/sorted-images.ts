import type { AttentionPlan } from '@int-flash/ops';
import type { DeviceHandle, NativeAddon } from '../src/native-addon.js';
import { type CudaKernel, hostRequest } from '../src/native-request.js';

/** What a kernel on sorted tiles read, sorted back: one sequence. Layout and words as in kernels/sorted_layout.h. */
export interface SortedCodes {
  /** The kernel's answer, [heads, queries, headDimV]. */
  readonly out: Float32Array;
  /** [heads, queries]; empty where the plan asks for none. */
  readonly lse: Float32Array;
  /** [heads, queries, padded] and [heads, queries]. */
  readonly queryCodes: Int8Array;
  readonly queryScales: Float32Array;
  /** [kvHeads, keys, padded] and [kvHeads, keys]. */
  readonly keyCodes: Int8Array;
  readonly keyScales: Float32Array;
  /** [kvHeads, keys, padded]: codes, or with half-int8 the bits of float16 numbers. */
  readonly values: Int8Array | Uint16Array;
  /** Of a key's value, [kvHeads, keys]; ones with half-int8. */
  readonly tau: Float32Array;
  readonly inverseWeights: Float32Array;
  /** 1 of a key whose slot has a weight to itself, and adds P to the row sum; others add codes. [kvHeads, keys] */
  readonly hasOwnWeight: Uint8Array;
  /** [kvHeads, padded] */
  readonly channelScales: Float32Array;
  readonly padded: number;
  /** Keys of a tile. */
  readonly tileKeys: number;
  /** Of each tile; with half-int8 all are 0. */
  readonly kinds: readonly number[];
  /** What contradicts the layout. */
  readonly faults: readonly string[];
}

const QUERY_BLOCK = 64;
const OUTLIER_SLOTS = 16;
const [PLAIN, OUTLIERS, COLUMNS] = [0, 1, 2];

function rowSwizzle(row: number, width: number): number {
  return width === 64 ? (row >> 1) & 3 : row & 7;
}

/** Byte offset of (row, byte) in an image of `rows` rows of `rowBytes`: panel_offset(). */
function panelOffset(row: number, byte: number, rows: number, rowBytes: number): number {
  const width = rowBytes % 128 === 0 ? 128 : 64;
  const inPanel = byte % width;
  const chunk = (inPanel >> 4) ^ rowSwizzle(row, width);
  return Math.floor(byte / width) * rows * width + row * width + chunk * 16 + (inPanel & 15);
}

/** key_position() */
function slotPosition(slot: number): number {
  return (slot & ~15) + 4 * ((slot & 7) >> 1) + 2 * ((slot >> 3) & 1) + (slot & 1);
}

/** Attention by `kernel` and what it read. `plan` has one sequence, in layout HND. */
export async function readSortedCodes(
  addon: NativeAddon,
  device: DeviceHandle,
  plan: AttentionPlan,
  kernel: CudaKernel,
): Promise<SortedCodes> {
  const { heads, kvHeads, headDimV, sequences } = plan;
  const { qLen: queries, kLen: keys } = sequences[0]!;
  const half = plan.precision === 'half-int8';
  const widest = Math.max(plan.headDim, headDimV);
  const padded = widest <= 64 ? 64 : widest <= 128 ? 128 : 256;
  const tileKeys = padded === 64 ? 192 : padded === 256 && half ? 64 : 128;
  const [tiles, blocks] = [Math.ceil(keys / tileKeys), Math.ceil(queries / QUERY_BLOCK)];
  const columnsAt = tileKeys * padded * (half ? 3 : 2);
  const headerAt = columnsAt + tileKeys * 14;
  const tileBytes = headerAt + 32;

  const images = await addon.sortedImages(device, hostRequest(plan, kernel));
  const read = async (buffer: (typeof images)['out'], bytes: number) => {
    const target = new Uint8Array(bytes);
    await addon.download(device, buffer, 0, target);
    return target.buffer;
  };
  const out = new Float32Array(await read(images.out, 4 * heads * queries * headDimV));
  const lse = images.lse ? new Float32Array(await read(images.lse, 4 * heads * queries)) : new Float32Array(0);
  const queryImage = new Int8Array(await read(images.queryCodes, heads * blocks * QUERY_BLOCK * padded));
  const blockScales = new Float32Array(await read(images.queryScales, 4 * heads * blocks * QUERY_BLOCK));
  const tileImages = await read(images.tiles, kvHeads * tiles * tileBytes);
  const channelScales = new Float32Array(await read(images.channelScale, 4 * kvHeads * padded));
  for (const buffer of Object.values(images)) addon.disposeBuffer(buffer);

  const queryCodes = new Int8Array(heads * queries * padded);
  const queryScales = new Float32Array(heads * queries);
  for (let head = 0; head < heads; head++) {
    for (let i = 0; i < queries; i++) {
      const block = head * blocks + Math.floor(i / QUERY_BLOCK);
      const row = i % QUERY_BLOCK;
      queryScales[head * queries + i] = blockScales[block * QUERY_BLOCK + row]!;
      for (let d = 0; d < padded; d++)
        queryCodes[(head * queries + i) * padded + d] =
          queryImage[block * QUERY_BLOCK * padded + panelOffset(row, d, QUERY_BLOCK, padded)]!;
    }
  }

  const keyCodes = new Int8Array(kvHeads * keys * padded);
  const values = half ? new Uint16Array(kvHeads * keys * padded) : new Int8Array(kvHeads * keys * padded);
  const [keyScales, tau, inverseWeights] = [0, 1, 2].map(() => new Float32Array(kvHeads * keys));
  const hasOwnWeight = new Uint8Array(kvHeads * keys);
  const kinds: number[] = [];
  const faults: string[] = [];
  for (let index = 0; index < kvHeads * tiles; index++) {
    const [kvHead, tile] = [Math.floor(index / tiles), index % tiles];
    const bytes = new Uint8Array(tileImages, index * tileBytes, tileBytes);
    const view = new DataView(tileImages, index * tileBytes, tileBytes);
    const float = (at: number) => view.getFloat32(at, true);
    const kind = half ? PLAIN : view.getInt32(headerAt + 16, true);
    kinds.push(kind);
    const present = Math.min(tileKeys, keys - tile * tileKeys);
    // A last tile, if plain, ends after 64 or 128 slots where that takes all of its keys.
    const span = kind === PLAIN && tileKeys > 128 && present <= 128 ? (present <= 64 ? 64 : 128) : tileKeys;
    const seen = new Set<number>();
    for (let slot = 0; slot < tileKeys; slot++) {
      const position = slotPosition(slot);
      const column = (which: number) => float(columnsAt + 4 * (which * tileKeys + position));
      const key = 255 - view.getUint16(columnsAt + 12 * tileKeys + 2 * position, true);
      if (key < 0 || key >= tileKeys || seen.has(key)) faults.push(`tile ${index}, slot ${slot}: key ${key}`);
      seen.add(key);
      if (key >= present) continue;
      if (slot >= span) faults.push(`tile ${index}: key ${key} beyond the span`);
      const at = kvHead * keys + tile * tileKeys + key;
      // What the kernel reads: the header where keys share, else the columns.
      const shares = kind === PLAIN || (kind === OUTLIERS && slot < tileKeys - OUTLIER_SLOTS);
      hasOwnWeight[at] = Number(!shares);
      const scale = half
        ? float(headerAt + 4 * Math.floor(slot / (tileKeys / 8)))
        : kind === COLUMNS
          ? column(0)
          : float(headerAt + (slot < (span / 4) * 3 ? 0 : 4));
      keyScales![at] = scale;
      tau![at] = half ? 0 : shares ? float(headerAt + 8) : column(1);
      inverseWeights![at] = half ? 1 : shares ? float(headerAt + 12) : column(2);
      if (column(0) !== scale || column(1) !== tau![at] || column(2) !== inverseWeights![at])
        faults.push(`tile ${index}, slot ${slot}: columns and header disagree`);
      for (let d = 0; d < padded; d++) {
        keyCodes[at * padded + d] = (bytes[panelOffset(slot, d, tileKeys, padded)]! << 24) >> 24;
        const values0 = tileKeys * padded;
        values[at * padded + d] = half
          ? view.getUint16(values0 + panelOffset(d, 2 * slot, padded, 2 * tileKeys), true)
          : bytes[values0 + panelOffset(d, position, padded, tileKeys)]! - 128;
      }
    }
  }
  return {
    ...{ out, lse, tileKeys, queryCodes, queryScales, keyCodes, keyScales: keyScales!, values, tau: tau! },
    ...{ inverseWeights: inverseWeights!, hasOwnWeight, channelScales, padded, kinds, faults },
  };
}
