import { ConfigFields } from './config-fields.js';
import type { JsonObject } from './json-file.js';

/** Linear weights as INT8 codes with a scale a row, in the "int-quantized" layout of compressed-tensors. */
export interface QuantizationConfig {
  readonly format: 'int-quantized';
  /** Modules that keep float weights: names, or `re:` and a pattern; which ones they are, the tensors' dtypes say. */
  readonly ignore: readonly string[];
}

const METHOD = 'compressed-tensors';
const FORMAT = 'int-quantized';

/**
 * Reads `quantization_config`: symmetric INT8 weights with one scale a channel (row), activations INT8 per token and dynamic.
 *
 * @throws {IntFlashError} `ERR_UNSUPPORTED` for every other scheme: computing it as if it were this one would be silently wrong.
 */
export function readQuantizationConfig(config: ConfigFields): QuantizationConfig | undefined {
  const fields = config.section('quantization_config');
  if (!fields) return undefined;
  expectValue(fields, 'quant_method', METHOD);
  expectValue(fields, 'format', FORMAT);
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
  if (group.has('output_activations')) throw group.error('output_activations', 'null', 'ERR_UNSUPPORTED');
  return { format: FORMAT, ignore: fields.strings('ignore', 100_000) };
}

/** The `quantization_config` of the layout above, in the spelling that transformers and vLLM read. */
export function writeQuantizationConfig(ignore: readonly string[]): JsonObject {
  const scheme = { num_bits: 8, type: 'int', symmetric: true, group_size: null, block_structure: null, actorder: null };
  return {
    quant_method: METHOD,
    format: FORMAT,
    quantization_status: 'compressed',
    global_compression_ratio: null,
    kv_cache_scheme: null,
    ignore,
    config_groups: {
      group_0: {
        targets: ['Linear'],
        weights: { ...scheme, strategy: 'channel', dynamic: false, observer: 'minmax', observer_kwargs: {} },
        input_activations: { ...scheme, strategy: 'token', dynamic: true, observer: null, observer_kwargs: {} },
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
