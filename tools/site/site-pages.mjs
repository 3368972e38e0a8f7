// The site's pages and where they come from: what the repository's readers see as Markdown is what the site shows.

/** @type {{ text: string, pages: [source: string, path: string][] }[]} in the order of the sidebar */
export const SECTIONS = [
  {
    text: 'Start',
    pages: [
      ['docs/site/application.md', 'start/application'],
      ['docs/site/kernels.md', 'start/kernels'],
      ['docs/site/research.md', 'start/research'],
    ],
  },
  {
    text: 'Packages',
    pages: [
      ['apps/int-flash/README.md', 'packages/int-flash'],
      ...['attention', 'llm', 'ai-sdk-provider', 'quant', 'reference', 'kernels-cpu', 'kernels-cuda', 'ops'].map(
        (name) => [`packages/${name}/README.md`, `packages/${name}`],
      ),
      ['packages/kernels-cpu-linux-x64/README.md', 'packages/kernels-cpu-linux-x64'],
      ['packages/kernels-cuda-linux-x64/README.md', 'packages/kernels-cuda-linux-x64'],
    ],
  },
  {
    text: 'Measured',
    pages: [
      ['docs/site/accuracy.md', 'accuracy'],
      ['docs/site/speed.md', 'speed'],
      ['docs/site/reliability.md', 'reliability'],
      ['docs/results/h200/log.md', 'hopper-log'],
      ['docs/results/cpu/log.md', 'cpu-log'],
    ],
  },
  {
    text: 'Promised',
    pages: [
      ['docs/site/determinism.md', 'determinism'],
      ['SECURITY.md', 'security'],
      ['docs/dependencies.md', 'dependencies'],
    ],
  },
  {
    text: 'Inside',
    pages: [
      ['docs/architecture.md', 'architecture'],
      ['docs/arithmetic.md', 'arithmetic'],
      ['docs/adr/0001-row-sum-before-rounding.md', 'adr/row-sum-before-rounding'],
      ['docs/adr/0002-layers.md', 'adr/layers'],
      ['docs/adr/0003-key-scales.md', 'adr/key-scales'],
      ['.github/CONTRIBUTING.md', 'contributing'],
    ],
  },
];

export const HOME = 'docs/site/index.md';

/** Packages whose API has a page. */
export const API_PACKAGES = [
  'attention',
  'llm',
  'ai-sdk-provider',
  'quant',
  'reference',
  'kernels-cpu',
  'kernels-cuda',
  'ops',
];

/** Files that pages show or offer, by their name on the site. */
export const FILES = {
  'icon.svg': 'apps/web/src/icon.svg',
  'images/chat-dark.png': 'docs/images/chat-dark.png',
  'images/chat-light.png': 'docs/images/chat-light.png',
  'images/attention-lab.png': 'docs/images/attention-lab.png',
  'reproduced-on-h200.html': 'docs/results/h200/reproduce/report.html',
};
