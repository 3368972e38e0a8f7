import type { ConfigFields } from './config-fields.js';
import type { RotaryScaling, RotaryShape } from './layers/rotary.js';

const DEFAULT_THETA = 10_000;
const MAX_THETA = 1e12;
const MAX_FACTOR = 2 ** 16;
const SUPPORTED = 'default, linear, llama3 or yarn';

/**
 * The rotary embedding a config asks for: `rope_theta` with `rope_scaling` (transformers 4), or both inside `rope_parameters`
 * (transformers 5).
 *
 * @throws {IntFlashError} `ERR_MODEL_FORMAT`, `ERR_UNSUPPORTED` (another scaling, one per layer type, part of a head).
 */
export function readRotary(config: ConfigFields, headDim: number, maxPositions: number): RotaryShape {
  const newStyle = config.section('rope_parameters');
  const scaling = newStyle ?? config.section('rope_scaling');
  const theta = (newStyle?.has('rope_theta') ? newStyle : config).number('rope_theta', 1, MAX_THETA, DEFAULT_THETA);
  for (const owner of [config, newStyle]) {
    if (owner?.has('partial_rotary_factor') && owner.number('partial_rotary_factor', 0, 1) !== 1) {
      throw owner.error('partial_rotary_factor', '1', 'ERR_UNSUPPORTED');
    }
  }
  if (headDim % 2 !== 0) throw config.error('head_dim', 'even for a rotary embedding', 'ERR_UNSUPPORTED');
  return { rotaryDim: headDim, theta, scaling: scaling ? readScaling(scaling, maxPositions) : { type: 'default' } };
}

function readScaling(fields: ConfigFields, maxPositions: number): RotaryScaling {
  const nested = fields.keys().find((key) => key.endsWith('_attention'));
  if (nested) throw fields.error(nested, 'absent: one rotary embedding for all layers', 'ERR_UNSUPPORTED');
  const typeField = fields.has('rope_type') ? 'rope_type' : 'type';
  const type = fields.text(typeField, 'default');
  switch (type) {
    case 'default':
      return { type };
    case 'linear':
      return { type, factor: readFactor(fields) };
    case 'llama3': {
      const lowFreqFactor = fields.number('low_freq_factor', 1e-6, MAX_FACTOR);
      const highFreqFactor = fields.number('high_freq_factor', 1e-6, MAX_FACTOR);
      if (highFreqFactor <= lowFreqFactor) throw fields.error('high_freq_factor', 'more than low_freq_factor');
      const originalMaxPositions = fields.integer('original_max_position_embeddings', 1, 2 ** 24);
      return { type, factor: readFactor(fields), lowFreqFactor, highFreqFactor, originalMaxPositions };
    }
    case 'yarn': {
      const originalMaxPositions = fields.integer('original_max_position_embeddings', 1, 2 ** 24, maxPositions);
      return {
        type,
        // Some configs give only how far the context was stretched.
        factor: fields.has('factor') ? readFactor(fields) : Math.max(1, maxPositions / originalMaxPositions),
        originalMaxPositions,
        betaFast: fields.number('beta_fast', 1e-6, 1e6, 32),
        betaSlow: fields.number('beta_slow', 1e-6, 1e6, 1),
        attentionFactor: optional(fields, 'attention_factor'),
        mscale: optional(fields, 'mscale'),
        mscaleAllDim: optional(fields, 'mscale_all_dim'),
        truncate: fields.boolean('truncate', true),
      };
    }
    default:
      throw fields.error(typeField, SUPPORTED, 'ERR_UNSUPPORTED');
  }
}

function readFactor(fields: ConfigFields): number {
  return fields.number('factor', 1, MAX_FACTOR);
}

function optional(fields: ConfigFields, name: string): number | undefined {
  return fields.has(name) ? fields.number(name, 0, 1e6) : undefined;
}
