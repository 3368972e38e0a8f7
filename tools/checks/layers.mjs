/**
 * Which packages each package may import: data goes one way, ops → quant → {reference, kernels} → attention → llm → {ai-sdk-provider, apps}.
 * The reasons are in docs/adr/0002-layers.md.
 */
const LAYERS = {
  ops: { may: [], why: 'ops holds the nouns that every package shares, so it can depend on none of them' },
  quant: { may: ['ops'], why: 'a quantizer turns tensors into codes and knows nothing of who uses them' },
  reference: {
    may: ['ops', 'quant'],
    why: 'the reference says what the kernels should compute; importing one would let it agree with that kernel by construction',
  },
  'kernels-cpu': {
    may: ['ops', 'quant'],
    why: 'a backend is judged against the reference, so it must not be made from it',
  },
  'kernels-cuda': {
    may: ['ops', 'quant'],
    why: 'a backend is judged against the reference, so it must not be made from it',
  },
  attention: {
    may: ['ops', 'quant', 'kernels-cpu', 'kernels-cuda'],
    why: 'attention chooses a backend; it must also work without a model and without the oracle',
  },
  llm: {
    may: ['ops', 'quant', 'attention'],
    why: 'a model asks attention for a backend; reaching past it would fix the backend and skip the checks of arguments',
  },
  'ai-sdk-provider': {
    may: ['ops', 'llm'],
    why: 'a provider translates calls for a model and knows nothing of how it computes',
  },
};

/** Tests of these may also import `reference`: everything that computes something the oracle can judge. */
const JUDGED_BY_REFERENCE = ['kernels-cpu', 'kernels-cuda', 'attention', 'llm'];

/**
 * @param {string} from   package directory name, or `apps`
 * @param {string} to     the imported package's name without its scope
 * @param {boolean} inTest whether the importing file is a test or a benchmark
 * @returns {string | undefined} why the import is wrong, or undefined when it is fine
 */
export function layerProblem(from, to, inTest) {
  if (/^-(linux|darwin|win32)-(x64|arm64)$/.test(to.startsWith(from) ? to.slice(from.length) : '')) return undefined; // its own binary
  if (from === to) return 'a package imports its own files by relative path';
  if (from === 'apps') return Object.hasOwn(LAYERS, to) ? undefined : `there is no package ${to}`;
  const layer = LAYERS[from];
  if (!layer) return `${from} has no layer yet: add it to tools/checks/layers.mjs`;
  if (layer.may.includes(to)) return undefined;
  if (inTest && to === 'reference' && JUDGED_BY_REFERENCE.includes(from)) return undefined;
  return `${from} may import ${layer.may.join(', ') || 'no other package'}: ${layer.why}`;
}
