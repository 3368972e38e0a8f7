import { wrongType } from './describe.js';

/**
 * What a typed array is, by the getters that all of them inherit: own properties, a subclass or another prototype could claim anything, and
 * a Proxy of one is none.
 */

type TypedArray = ArrayBufferView & { readonly length: number };
type Kind = new (buffer: ArrayBufferLike, byteOffset: number, length: number) => TypedArray;

const inherited = Object.getPrototypeOf(Int8Array.prototype) as object;
const kindOf = getterOf(Symbol.toStringTag);
const lengthOf = getterOf('length');
const offsetOf = getterOf('byteOffset');
const bufferOf = getterOf('buffer');

function getterOf(name: PropertyKey): (this: unknown) => unknown {
  return Object.getOwnPropertyDescriptor(inherited, name)!.get!;
}

const KINDS = new Map<string, Kind>(
  [
    Int8Array,
    Uint8Array,
    Uint8ClampedArray,
    Int16Array,
    Uint16Array,
    Int32Array,
    Uint32Array,
    Float32Array,
    Float64Array,
    BigInt64Array,
    BigUint64Array,
    (globalThis as { Float16Array?: Kind }).Float16Array,
  ].flatMap((kind) => (kind ? [[kind.name, kind as Kind]] : [])),
);

/** "Float32Array" and so on; undefined for all else. */
export function typedArrayKind(value: unknown): string | undefined {
  return kindOf.call(value) as string | undefined;
}

/**
 * How many elements it has.
 *
 * @throws {IntFlashError} `ERR_ARG_TYPE` for anything else.
 */
export function arrayLength(value: unknown, name: string): number {
  if (typedArrayKind(value) === undefined) throw wrongType(`${name} to be a typed array`, value);
  return lengthOf.call(value) as number;
}

/** The memory that a view lies in. */
export function viewedBuffer(view: ArrayBufferView): ArrayBufferLike {
  return typedArrayKind(view) === undefined ? view.buffer : (bufferOf.call(view) as ArrayBufferLike);
}

/**
 * The typed array itself, or another of the same memory where it could answer otherwise than it is, of what is asked of arrays here: then its class
 * is one of the language's, and so are those of its parts and copies. Anything else comes back as it is.
 */
export function plainArray<T>(array: T): T {
  const Plain = KINDS.get(kindOf.call(array) as string);
  if (Plain === undefined) return array;
  if (Object.getPrototypeOf(array) === Plain.prototype && !hidesItself(array as object)) return array;
  const length = lengthOf.call(array) as number;
  const buffer = length === 0 ? new ArrayBuffer(0) : (bufferOf.call(array) as ArrayBufferLike); // a detached one would be refused without a code
  return new Plain(buffer, length === 0 ? 0 : (offsetOf.call(array) as number), length) as unknown as T;
}

// One by one: a loop over the names would take three times as long, and every call passes here.
function hidesItself(array: object): boolean {
  return (
    Object.hasOwn(array, 'length') ||
    Object.hasOwn(array, 'buffer') ||
    Object.hasOwn(array, 'byteOffset') ||
    Object.hasOwn(array, 'byteLength') ||
    Object.hasOwn(array, 'constructor') ||
    Object.hasOwn(array, 'subarray') ||
    Object.hasOwn(array, 'slice') ||
    Object.hasOwn(array, 'set') ||
    Object.hasOwn(array, 'map') ||
    Object.hasOwn(array, 'findIndex') ||
    Object.hasOwn(array, 'reduce') ||
    Object.hasOwn(array, 'some') ||
    Object.hasOwn(array, Symbol.iterator)
  );
}
