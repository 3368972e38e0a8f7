// ONNX files of one node, written field by field: protobuf with a handful of messages needs no library.

const TYPES = { float32: 1, int32: 6 };
const varint = (n) => {
  const bytes = [];
  for (let rest = n; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return [...bytes, rest];
    bytes.push((rest % 128) | 128);
  }
};
const text = (s) => [...Buffer.from(s)];
const number = (field, n) => [...varint(field * 8), ...varint(n)];
const bytes = (field, content) => [...varint(field * 8 + 2), ...varint(content.length), ...content];

const attribute = (name, value) => bytes(5, [...bytes(1, text(name)), ...number(3, value), ...number(20, 2)]); // AttributeProto, INT
const valueInfo = (field, { name, type = 'float32', dims }) => {
  const shape = bytes(
    2,
    dims.flatMap((dim) => bytes(1, number(1, dim))),
  );
  return bytes(field, [...bytes(1, text(name)), ...bytes(2, bytes(1, [...number(1, TYPES[type]), ...shape]))]);
};

/**
 * The bytes of a model with one node.
 * @param inputs  {name, type, dims} each; undefined for an optional one that is left out
 * @param outputs {name, dims} each
 */
export function oneNodeModel({ operator, domain, opset, attributes, inputs, outputs }) {
  const node = bytes(1, [
    ...inputs.flatMap((input) => bytes(1, text(input?.name ?? ''))),
    ...outputs.flatMap((output) => bytes(2, text(output.name))),
    ...bytes(4, text(operator)),
    ...Object.entries(attributes).flatMap(([name, value]) => attribute(name, value)),
    ...bytes(7, text(domain)),
  ]);
  const graph = [
    ...node,
    ...bytes(2, text('attention')),
    ...inputs.filter(Boolean).flatMap((input) => valueInfo(11, input)),
    ...outputs.flatMap((output) => valueInfo(12, output)),
  ];
  const imports = Object.entries({ '': opset, 'com.microsoft': 1 }).flatMap(([name, version]) =>
    bytes(8, [...bytes(1, text(name)), ...number(2, version)]),
  );
  return Uint8Array.from([...number(1, 10), ...bytes(7, graph), ...imports]);
}
