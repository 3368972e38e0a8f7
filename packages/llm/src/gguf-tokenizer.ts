import { IntFlashError } from '@int-flash/ops';
import type { GgufMetadata } from './gguf-metadata.js';
import type { JsonObject } from './json-file.js';
import { parseJsonText } from './json-text.js';
import { Tokenizer } from './tokenizer.js';
import { TOKENIZER_JSON } from './tokenizer-json.js';

/** Token types of `tokenizer.ggml.token_type`. */
const CONTROL = 3;
const USER_DEFINED = 4;

/** Of tokens' squared lengths. The largest vocabularies known, 256k tokens of ten characters, come to a tenth of it; all of it takes half a second. */
const MAX_CUT_STEPS = 2 ** 28;

const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const TAIL = '| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+';
/** How text is split before merging, by the names in `tokenizer.ggml.pre`; patterns as the models' tokenizer.json have them. */
const SPLITS: Readonly<Record<string, { readonly pattern: string; readonly normalizer?: object }>> = {
  'llama-bpe': { pattern: `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}${TAIL}` },
  qwen2: { pattern: `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}${TAIL}`, normalizer: { type: 'NFC' } },
  'gpt-2': { pattern: "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+" },
};

/**
 * The tokenizer in a GGUF file: a whole tokenizer.json where there is one, else byte-level BPE (`gpt2`) or SentencePiece BPE (`llama`).
 *
 * @throws {IntFlashError} `ERR_TOKENIZER`, `ERR_TOKENIZER_LIMIT`, `ERR_MODEL_FORMAT`, `ERR_UNSUPPORTED`.
 */
export function readGgufTokenizer(metadata: GgufMetadata): Tokenizer {
  const embedded = 'tokenizer.huggingface.json';
  const config = tokenizerConfig(metadata);
  if (metadata.has(embedded)) {
    const json = parseJsonText(metadata.text(embedded), { ...TOKENIZER_JSON, name: embedded });
    if (typeof json !== 'object' || json === null || Array.isArray(json))
      throw metadata.fault(embedded, 'a JSON object');
    return new Tokenizer(json as JsonObject, config);
  }
  const model = metadata.text('tokenizer.ggml.model');
  switch (model) {
    case 'gpt2':
      return new Tokenizer(byteLevelBpe(metadata), config);
    case 'llama':
      return new Tokenizer(sentencePieceBpe(metadata), config);
    default:
      throw new IntFlashError(
        'ERR_UNSUPPORTED',
        `Expected a GGUF tokenizer of type gpt2 or llama, got ${JSON.stringify(model.slice(0, 80))}`,
        { field: 'tokenizer.ggml.model' },
      );
  }
}

/** tokenizer_config.json's part: which tokens have a role, and the chat template. */
function tokenizerConfig(metadata: GgufMetadata): JsonObject {
  const tokens = metadata.has('tokenizer.ggml.tokens') ? metadata.strings('tokenizer.ggml.tokens') : [];
  const config: Record<string, unknown> = {};
  for (const role of ['bos', 'eos', 'padding', 'unknown'] as const) {
    const key = `tokenizer.ggml.${role}_token_id`;
    if (!metadata.has(key)) continue;
    const token = tokens[metadata.number(key)];
    if (token === undefined) throw metadata.fault(key, `a token id below ${tokens.length}`);
    config[{ bos: 'bos_token', eos: 'eos_token', padding: 'pad_token', unknown: 'unk_token' }[role]] = token;
  }
  const template = 'tokenizer.chat_template';
  if (metadata.has(template)) config.chat_template = metadata.text(template);
  return config;
}

function byteLevelBpe(metadata: GgufMetadata): JsonObject {
  const pre = metadata.has('tokenizer.ggml.pre') ? metadata.text('tokenizer.ggml.pre') : 'default';
  const split = Object.hasOwn(SPLITS, pre) ? SPLITS[pre] : undefined;
  if (!split) {
    throw new IntFlashError(
      'ERR_UNSUPPORTED',
      `Expected text to be split as ${Object.keys(SPLITS).join(', ')}, got ${JSON.stringify(pre.slice(0, 80))}`,
      { field: 'tokenizer.ggml.pre', hint: 'The same model in Hugging Face format has its own tokenizer.json.' },
    );
  }
  return {
    added_tokens: addedTokens(metadata),
    normalizer: split.normalizer ?? null,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: split.pattern }, behavior: 'Isolated', invert: false },
        { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    post_processor: beginToken(metadata, pre === 'llama-bpe'),
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: { type: 'BPE', vocab: vocabulary(metadata), merges: [...metadata.strings('tokenizer.ggml.merges')] },
  };
}

/** SentencePiece merges by score, not by a list: the list is every way to join two pieces into a third, best score first. */
function sentencePieceBpe(metadata: GgufMetadata): JsonObject {
  const tokens = metadata.strings('tokenizer.ggml.tokens');
  const scores = metadata.numbers('tokenizer.ggml.scores');
  if (scores.length !== tokens.length) throw metadata.fault('tokenizer.ggml.scores', `${tokens.length} scores`);
  // Each cut of each token is looked up.
  const steps = tokens.reduce((sum, token) => sum + token.length ** 2, 0);
  if (steps > MAX_CUT_STEPS) {
    const message = `Expected tokens whose squared lengths add up to at most ${MAX_CUT_STEPS}, got ${steps}`;
    throw new IntFlashError('ERR_TOKENIZER_LIMIT', message, { field: 'tokenizer.ggml.tokens' });
  }
  const ids = new Map(tokens.map((token, id) => [token, id]));
  const merges: { left: string; right: string; score: number }[] = [];
  for (const [id, token] of tokens.entries()) {
    const ways: typeof merges = [];
    const characters = [...token];
    for (let cut = 1, left = ''; cut < characters.length; cut++) {
      left += characters[cut - 1];
      const right = token.slice(left.length);
      if (ids.has(left) && ids.has(right)) ways.push({ left, right, score: scores[id]! });
    }
    ways.sort((a, b) => ids.get(a.left)! - ids.get(b.left)! || ids.get(a.right)! - ids.get(b.right)!);
    merges.push(...ways);
  }
  merges.sort((a, b) => b.score - a.score); // stable: equal scores stay in the order of the pieces
  const addPrefix = metadata.boolean('tokenizer.ggml.add_space_prefix', true);
  return {
    added_tokens: addedTokens(metadata),
    normalizer: {
      type: 'Sequence',
      normalizers: [
        ...(addPrefix ? [{ type: 'Prepend', prepend: '▁' }] : []),
        { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
      ],
    },
    pre_tokenizer: null,
    post_processor: beginToken(metadata, true),
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        ...(addPrefix ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : []),
      ],
    },
    model: {
      type: 'BPE',
      byte_fallback: true,
      fuse_unk: true,
      ...(metadata.has('tokenizer.ggml.unknown_token_id') && {
        unk_token: tokens[metadata.number('tokenizer.ggml.unknown_token_id')],
      }),
      vocab: vocabulary(metadata),
      merges: merges.map(({ left, right }) => [left, right]),
    },
  };
}

function vocabulary(metadata: GgufMetadata): Record<string, number> {
  const key = 'tokenizer.ggml.tokens';
  const vocab: Record<string, number> = Object.create(null);
  for (const [id, token] of metadata.strings(key).entries()) {
    if (token in vocab) {
      throw new IntFlashError('ERR_TOKENIZER', `Expected unique tokens, got ${JSON.stringify(token)} twice`, {
        field: key,
      });
    }
    vocab[token] = id;
  }
  return vocab;
}

function addedTokens(metadata: GgufMetadata): object[] {
  const key = 'tokenizer.ggml.token_type';
  if (!metadata.has(key)) return [];
  const tokens = metadata.strings('tokenizer.ggml.tokens');
  const types = metadata.numbers(key);
  if (types.length !== tokens.length) throw metadata.fault(key, `${tokens.length} types`);
  return tokens.flatMap((content, id) => {
    if (types[id] !== CONTROL && types[id] !== USER_DEFINED) return [];
    const rest = { single_word: false, lstrip: false, rstrip: false, normalized: false };
    return [{ id, content, special: types[id] === CONTROL, ...rest }];
  });
}

/** Puts the begin token in front, where the file says so or does not say and its kind of model does. */
function beginToken(metadata: GgufMetadata, usual: boolean): object | null {
  const key = 'tokenizer.ggml.bos_token_id';
  if (!metadata.boolean('tokenizer.ggml.add_bos_token', usual) || !metadata.has(key)) return null;
  const id = metadata.number(key);
  const token = metadata.strings('tokenizer.ggml.tokens')[id];
  if (token === undefined) throw metadata.fault(key, 'the id of a token');
  const begin = { SpecialToken: { id: token, type_id: 0 } };
  const sequence = (name: 'A' | 'B') => ({ Sequence: { id: name, type_id: 0 } });
  return {
    type: 'TemplateProcessing',
    single: [begin, sequence('A')],
    pair: [begin, sequence('A'), begin, sequence('B')],
    special_tokens: { [token]: { id: token, ids: [id], tokens: [token] } },
  };
}
