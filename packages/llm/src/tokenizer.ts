import { Tokenizer as Library } from '@huggingface/tokenizers';
import { checkBoolean, checkOptions, describe, IntFlashError, readArguments } from '@int-flash/ops';
import { ByteLevelDetokenizer, byteLevelBytes, type Detokenizer, WindowDetokenizer } from './detokenizer.js';
import { checkJsonObject, checkPath } from './file-arguments.js';
import { type JsonObject, readJsonFile, readSmallFile, requireJsonFile } from './json-file.js';
import { decodeUtf8 } from './json-text.js';
import { runWithDeadline } from './run-with-deadline.js';
import { type AddedToken, judgeTokenizerJson, TOKENIZER_JSON } from './tokenizer-json.js';

export interface SpecialTokenFacts {
  readonly id: number;
  readonly text: string;
  readonly role?: 'bos' | 'eos' | 'pad';
}

/** Longest text in UTF-16 units. */
const MAX_TEXT_LENGTH = 2 ** 22;
// The slowest real case, a vocabulary without a split rule, takes 20 to 40 µs a character on a small machine.
const BASE_MILLISECONDS = 1000;
const MILLISECONDS_A_CHARACTER = 0.1;

/** Text to token ids and back, as a model's tokenizer.json has it. */
export class Tokenizer {
  /** One more than the highest id; ids may have holes. */
  readonly vocabSize: number;
  /** UTF-16 units of the longest token as the vocabulary spells it: no text gets fewer tokens than its length over this. */
  readonly longestToken: number;
  readonly specialTokens: readonly SpecialTokenFacts[];
  readonly bosTokenId: number | undefined;
  readonly eosTokenId: number | undefined;
  readonly padTokenId: number | undefined;
  /** A Jinja template; see `renderChatTemplate`. */
  readonly chatTemplate: string | undefined;
  readonly #library: Library;
  readonly #tokens: readonly (string | undefined)[];
  readonly #added: ReadonlyMap<number, AddedToken>;
  readonly #ids: ReadonlyMap<string, number>;
  readonly #isByteLevel: boolean;

  /**
   * @param tokenizerJson The object in tokenizer.json.
   * @param tokenizerConfig The object in tokenizer_config.json.
   * @throws {IntFlashError} `ERR_TOKENIZER`, `ERR_TOKENIZER_LIMIT`, `ERR_UNSUPPORTED`, `ERR_ARG_TYPE`.
   */
  constructor(tokenizerJson: JsonObject, tokenizerConfig: JsonObject = {}) {
    checkJsonObject(tokenizerJson, 'tokenizerJson');
    checkJsonObject(tokenizerConfig, 'tokenizerConfig');
    const { json, tokens, addedTokens } = judgeTokenizerJson(tokenizerJson);
    this.#library = callLibrary(() => new Library(json, libraryConfig(tokenizerConfig)));
    this.#tokens = tokens;
    this.#added = new Map(addedTokens.map((token) => [token.id, token]));
    this.#ids = new Map(tokens.flatMap((token, id) => (token === undefined ? [] : [[token, id] as const])));
    this.#isByteLevel = (json.decoder as JsonObject | null)?.type === 'ByteLevel';
    this.vocabSize = tokens.length;
    this.longestToken = tokens.reduce((longest, token) => Math.max(longest, token?.length ?? 0), 1);
    this.bosTokenId = this.#idOfRole(tokenizerConfig, 'bos_token');
    this.eosTokenId = this.#idOfRole(tokenizerConfig, 'eos_token');
    this.padTokenId = this.#idOfRole(tokenizerConfig, 'pad_token');
    const roles = [
      [this.bosTokenId, 'bos'],
      [this.eosTokenId, 'eos'],
      [this.padTokenId, 'pad'],
    ] as const;
    this.specialTokens = addedTokens
      .filter((token) => token.special)
      .map(({ id, content }) => {
        const role = roles.find(([roleId]) => roleId === id)?.[1];
        return role ? { id, text: content, role } : { id, text: content };
      });
    this.chatTemplate = chatTemplateOf(tokenizerConfig);
  }

  /**
   * @param options `addSpecialTokens` (default true): put the model's begin token in front, as its post-processor says. A rendered
   *   chat template has it already.
   * @throws {IntFlashError} `ERR_ARG_TYPE`; `ERR_TOKENIZER_LIMIT`: more than 4 Mi characters, or text on which the tokenizer's patterns
   *   take too long.
   */
  encode(text: string, options?: { readonly addSpecialTokens?: boolean }): number[] {
    const add_special_tokens = readArguments(() => {
      const { addSpecialTokens } = checkOptions(options, ['addSpecialTokens'], 'options');
      if (typeof text !== 'string')
        throw new IntFlashError('ERR_ARG_TYPE', `Expected text to be a string, got ${describe(text)}`);
      return checkBoolean(addSpecialTokens, 'addSpecialTokens', true);
    });
    if (text.length > MAX_TEXT_LENGTH) {
      throw new IntFlashError(
        'ERR_TOKENIZER_LIMIT',
        `Expected text of at most ${MAX_TEXT_LENGTH} characters, got ${text.length}`,
      );
    }
    const limit = BASE_MILLISECONDS + text.length * MILLISECONDS_A_CHARACTER;
    const ids = runWithDeadline(
      () => callLibrary(() => this.#library.encode(text, { add_special_tokens }).ids),
      limit,
      () =>
        new IntFlashError(
          'ERR_TOKENIZER_LIMIT',
          `Expected the text to be split within ${Math.ceil(limit)} ms, got no end`,
        ),
    );
    if (!ids.every((id) => this.#tokens[id] !== undefined)) {
      throw new IntFlashError('ERR_TOKENIZER', 'Expected every piece of the text to have a token, got one without', {
        hint: 'The vocabulary has neither bytes nor an unknown token to fall back on.',
      });
    }
    return ids;
  }

  /**
   * @param options `skipSpecialTokens` (default false): leave out begin, end and role tokens.
   * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_ARG_RANGE` for an id without a token.
   */
  decode(ids: readonly number[], options?: { readonly skipSpecialTokens?: boolean }): string {
    const known = readArguments(() => this.#knownIds(ids));
    const skip = readSkip(options);
    if (!this.#isByteLevel) return this.#decodeWith(skip, known);
    const detokenizer = this.#byteLevel(skip);
    return known.map((id) => detokenizer.push(id)).join('') + detokenizer.flush();
  }

  /** Decodes a stream; the concatenation is `decode` of all its ids. */
  createDetokenizer(options?: { readonly skipSpecialTokens?: boolean }): Detokenizer {
    const skip = readSkip(options);
    if (this.#isByteLevel) return this.#byteLevel(skip);
    const window = new WindowDetokenizer((ids) => this.#decodeWith(skip, ids));
    return {
      push: (id) => {
        this.token(id);
        return window.push(id);
      },
      flush: () => window.flush(),
    };
  }

  /** The id of a token as the vocabulary spells it. */
  idOf(token: string): number | undefined {
    return this.#ids.get(token);
  }

  /**
   * The token of an id, as the vocabulary spells it.
   *
   * @throws {IntFlashError} `ERR_ARG_RANGE` for an id without a token.
   */
  token(id: number): string {
    const token = typeof id === 'number' ? this.#tokens[id] : undefined;
    if (token !== undefined) return token;
    return readArguments(() => {
      throw new IntFlashError('ERR_ARG_RANGE', `Expected a token id below ${this.vocabSize}, got ${describe(id)}`);
    });
  }

  /**
   * The bytes that a token stands for, alone: part of a character, maybe.
   *
   * @throws {IntFlashError} `ERR_ARG_RANGE` for an id without a token.
   */
  tokenBytes(id: number): Uint8Array {
    const token = this.token(id);
    if (this.#added.has(id)) return new TextEncoder().encode(token);
    return this.#isByteLevel ? byteLevelBytes(token) : new TextEncoder().encode(this.#decodeWith(false, [id]));
  }

  isSpecial(id: number): boolean {
    return this.#added.get(id)?.special === true;
  }

  /** Up to the first that has no token: an array's length says nothing about what it holds. */
  #knownIds(ids: unknown): number[] {
    if (!Array.isArray(ids))
      throw new IntFlashError('ERR_ARG_TYPE', `Expected ids to be an array, got ${describe(ids)}`);
    const known: number[] = [];
    for (let i = 0, { length } = ids; i < length; i++) {
      const id = ids[i] as number;
      this.token(id);
      known.push(id);
    }
    return known;
  }

  #byteLevel(skip: boolean): ByteLevelDetokenizer {
    return new ByteLevelDetokenizer({
      token: (id) => this.token(id),
      isAdded: (id) => this.#added.has(id),
      isSkipped: (id) => skip && this.isSpecial(id),
    });
  }

  #decodeWith(skip: boolean, ids: readonly number[]): string {
    const kept = ids.filter((id) => !(skip && this.isSpecial(id)));
    // The library's clean-up joins " ." to "."; what a model wrote is kept as it is.
    if (kept.length === 0) return '';
    return callLibrary(() => this.#library.decode(kept, { clean_up_tokenization_spaces: false }));
  }

  #idOfRole(config: JsonObject, role: string): number | undefined {
    const value = config[role];
    const token = typeof value === 'object' && value !== null ? (value as JsonObject).content : value;
    return typeof token === 'string' ? this.#ids.get(token) : undefined;
  }
}

/**
 * Reads `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` (the last two may be absent) of a model folder.
 *
 * @throws {IntFlashError} `ERR_TOKENIZER`, `ERR_TOKENIZER_LIMIT`, `ERR_UNSUPPORTED`, `ERR_ARG_TYPE`.
 */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  checkPath(folder, 'the model folder');
  const json = await requireJsonFile(folder, 'tokenizer.json', TOKENIZER_JSON);
  const config = (await readJsonFile(folder, 'tokenizer_config.json', TOKENIZER_JSON)) ?? {};
  const file = { ...TOKENIZER_JSON, name: 'chat_template.jinja', maxBytes: 2 ** 20 };
  const template = await readSmallFile(folder, file.name, file);
  return new Tokenizer(json, template ? { ...config, chat_template: decodeUtf8(template, file) } : config);
}

/** The library finds some faults of a file only when it uses that part of it. */
function callLibrary<T>(work: () => T): T {
  try {
    return work();
  } catch (cause) {
    const code = cause instanceof RangeError ? 'ERR_TOKENIZER_LIMIT' : 'ERR_TOKENIZER';
    throw new IntFlashError(code, 'Expected a tokenizer.json that can be used, got one that cannot', { cause });
  }
}

function readSkip(options: unknown): boolean {
  return readArguments(() => {
    const { skipSpecialTokens } = checkOptions(options, ['skipSpecialTokens'], 'options');
    return checkBoolean(skipSpecialTokens, 'skipSpecialTokens', false);
  });
}

/** What of tokenizer_config.json changes how the library splits text; the rest may be of any shape and stays out. */
function libraryConfig(config: JsonObject): Record<string, unknown> {
  const kept: Record<string, unknown> = {};
  for (const key of ['remove_space', 'do_lowercase_and_remove_accent']) if (config[key] === true) kept[key] = true;
  for (const key of ['eos_token', 'unk_token']) if (typeof config[key] === 'string') kept[key] = config[key];
  return kept;
}

/** A template, or a list of named ones of which "default" is for chat. */
function chatTemplateOf({ chat_template: value }: JsonObject): string | undefined {
  if (value === undefined || value === null) return undefined;
  const named = Array.isArray(value)
    ? value.find((entry: unknown) => (entry as JsonObject | null)?.name === 'default')
    : undefined;
  const template = Array.isArray(value) ? (named as JsonObject | undefined)?.template : value;
  if (typeof template !== 'string') {
    throw new IntFlashError(
      'ERR_TOKENIZER',
      'Expected chat_template to be a string or named templates with a "default"',
      {
        field: 'chat_template',
      },
    );
  }
  return template;
}
