import { INT4_GROUPS, type Int4Group } from '@int-flash/quant';
import { ConfigFields } from './config-fields.js';
import type { JsonObject } from './json-file.js';

/** Linear weights as codes, in two layouts of compressed-tensors: INT8 with a scale a row, or INT4 with a scale for each `group` columns. */
export type QuantizationConfig = {
  /** Modules that keep float weights: names, or `re:` and a pattern; which ones they are, the tensors' dtypes say. */
  readonly ignore: readonly string[];
} & QuantizationScheme;

export type QuantizationScheme =
  | { readonly format: 'int-quantized' }
  | { readonly format: 'pack-quantized'; readonly group: Int4Group };

const METHOD = 'compressed-tensors';

/**
 * Reads `quantization_config`: symmetric INT8 weights with one scale a channel (row), activations INT8 per token and dynamic; or symmetric INT4
 * weights with one scale for 32, 64 or 128 columns, activations as they are.
 *
 * @throws {IntFlashError} `ERR_UNSUPPORTED` for every other scheme: computing it as if it were this one would be silently wrong.
 */
export function readQuantizationConfig(config: ConfigFields): QuantizationConfig | undefined {
  const fields = config.section('quantization_config');
  if (!fields) return undefined;
  expectValue(fields, 'quant_method', METHOD);
  const format = fields.raw('format');
  if (format !== 'int-quantized' && format !== 'pack-quantized')
    throw fields.error('format', '"int-quantized" or "pack-quantized"', 'ERR_UNSUPPORTED');
  if (fields.has('quantization_status')) expectValue(fields, 'quantization_status', 'compressed');
  if (fields.has('kv_cache_scheme')) throw fields.error('kv_cache_scheme', 'null', 'ERR_UNSUPPORTED');
  const groups = fields.section('config_groups');
  const names = groups?.keys() ?? [];
  const [name] = names;
  if (!groups || name === undefined || names.length !== 1) {
    throw fields.error('config_groups', 'one group for all linear layers', 'ERR_UNSUPPORTED');
  }
  const group = groups.section(name) ?? new ConfigFields({}, 'config.json');
  if (group.strings('targets', 64).join() !== 'Linear') throw group.error('targets', '["Linear"]', 'ERR_UNSUPPORTED');
  if (group.has('output_activations')) throw group.error('output_activations', 'null', 'ERR_UNSUPPORTED');
  const ignore = fields.strings('ignore', 100_000);
  if (format === 'pack-quantized') {
    if (group.has('input_activations')) throw group.error('input_activations', 'null', 'ERR_UNSUPPORTED');
    return { format, group: readInt4Group(group), ignore };
  }
  expectScheme(group, 'weights', { num_bits: 8, type: 'int', symmetric: true, strategy: 'channel', dynamic: false });
  if (group.has('input_activations')) {
    expectScheme(group, 'input_activations', {
      num_bits: 8,
      type: 'int',
      symmetric: true,
      strategy: 'token',
      dynamic: true,
    });
  }
  return { format, ignore };
}

function readInt4Group(group: ConfigFields): Int4Group {
  expectScheme(group, 'weights', { num_bits: 4, type: 'int', symmetric: true, strategy: 'group', dynamic: false });
  const weights = group.section('weights')!;
  if (weights.has('actorder')) throw weights.error('actorder', 'null', 'ERR_UNSUPPORTED');
  const size = INT4_GROUPS.find((known) => known === weights.raw('group_size'));
  if (size === undefined) throw weights.error('group_size', `one of ${INT4_GROUPS.join(', ')}`, 'ERR_UNSUPPORTED');
  return size;
}

/** The `quantization_config` of a layout above, in the spelling that transformers and vLLM read. */
export function writeQuantizationConfig(ignore: readonly string[], layout: QuantizationScheme): JsonObject {
  const isInt8 = layout.format === 'int-quantized';
  const scheme = {
    num_bits: isInt8 ? 8 : 4,
    type: 'int',
    symmetric: true,
    group_size: null,
    block_structure: null,
    actorder: null,
  };
  return {
    quant_method: METHOD,
    format: layout.format,
    quantization_status: 'compressed',
    global_compression_ratio: null,
    kv_cache_scheme: null,
    ignore,
    config_groups: {
      group_0: {
        targets: ['Linear'],
        weights: {
          ...scheme,
          ...(isInt8 ? { strategy: 'channel' } : { strategy: 'group', group_size: layout.group }),
          dynamic: false,
          observer: 'minmax',
          observer_kwargs: {},
        },
        input_activations: isInt8
          ? { ...scheme, strategy: 'token', dynamic: true, observer: null, observer_kwargs: {} }
          : null,
        output_activations: null,
      },
    },
  };
}

function expectScheme(group: ConfigFields, name: string, wanted: Readonly<Record<string, unknown>>): void {
  const scheme = group.section(name);
  if (!scheme) throw group.error(name, 'an object');
  for (const [key, value] of Object.entries(wanted)) expectValue(scheme, key, value);
}

function expectValue(fields: ConfigFields, name: string, wanted: unknown): void {
  const absentIsFalse = wanted === false && !fields.has(name);
  if (!absentIsFalse && fields.raw(name) !== wanted)
    throw fields.error(name, JSON.stringify(wanted), 'ERR_UNSUPPORTED');
}
