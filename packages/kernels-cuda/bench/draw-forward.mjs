// Draws what bench-gpu.mjs measured: docs/images/gpu-forward-speed.svg and docs/images/gpu-forward-error.svg.
//   node packages/kernels-cuda/bench/draw-forward.mjs
import { readFileSync, writeFileSync } from 'node:fs';
import * as Plot from '@observablehq/plot';
import { lineNames, PICTURE_STYLE, plotSvg, svgFile } from '../../../tools/plot-svg.mjs';

const root = new URL('../../../', import.meta.url);
const NAMES = {
  'full-int8': 'int-flash full-int8',
  'half-int8': 'int-flash half-int8',
  'full-int8-sorted': 'full-int8, kernel for any GPU',
  'cudnn-bf16': 'cuDNN bf16',
  'flash2-bf16': 'FlashAttention-2 bf16',
};
const WAYS = Object.values(NAMES);
const COLORS = ['#0b6e4f', '#8bc34a', '#5c8a8a', '#d1495b', '#edae49'];

const lines = readFileSync(new URL('docs/results/h200/attention-forward.jsonl', root), 'utf8')
  .split('\n')
  .filter(Boolean)
  .map((line) => JSON.parse(line));
const gpu = lines[0].gpu;
write('gpu-forward-speed', speedPlot());
write('gpu-forward-error', errorPlot());

/** Kernels alone, batch 4 and 32 heads where nothing else is said; a peer's time stands on every line of its shape. */
function speedPlot() {
  const own = lines.filter(({ entry, variant, H, Hkv }) => entry === 'kernel' && NAMES[variant] && H === Hkv);
  const point = ({ N, D, causal }, way, tops) => ({
    tokens: N,
    tops,
    way: NAMES[way],
    dim: `head dimension ${D}`,
    mask: causal ? 'causal' : 'not causal',
  });
  const peers = own
    .filter(({ variant }) => variant === 'full-int8')
    .flatMap((line) =>
      Object.entries(line.peer)
        .filter(([name]) => NAMES[name])
        .map(([name, ms]) => point(line, name, (line.tops * line.ms) / ms)),
    );
  const points = [...own.map((line) => point(line, line.variant, line.tops)), ...peers];
  return plotSvg(`Attention forward on ${gpu}: TOPS against sequence length`, {
    width: 980,
    height: 560,
    marginLeft: 56,
    style: PICTURE_STYLE,
    x: { type: 'log', base: 2, label: 'tokens', tickFormat: (n) => (n >= 1024 ? `${n / 1024}k` : `${n}`) },
    y: { label: 'TOPS', grid: true, domain: [0, 1200] },
    color: { domain: WAYS, range: COLORS },
    fx: { label: null, domain: [64, 128, 256].map((D) => `head dimension ${D}`) },
    fy: { label: null, domain: ['not causal', 'causal'] },
    marks: [
      Plot.frame({ stroke: '#ddd' }),
      Plot.line(points, {
        x: 'tokens',
        y: 'tops',
        fx: 'dim',
        fy: 'mask',
        stroke: 'way',
        strokeWidth: 2,
        marker: 'dot',
        sort: 'tokens',
      }),
      lineNames(WAYS, { dim: 'head dimension 64', mask: 'not causal' }),
    ],
  });
}

function errorPlot() {
  const points = lines
    .filter(
      (line) => line.entry === 'kernel' && line.N === 4096 && line.D === 128 && line.H === line.Hkv && !line.causal,
    )
    .map(({ variant, ms, relL2 }) => ({ variant, ms, relL2 }));
  return plotSvg(`Attention forward on ${gpu}: error against time at 4,096 tokens`, {
    width: 720,
    height: 360,
    marginLeft: 64,
    style: PICTURE_STYLE,
    x: { label: 'ms, batch 4, 32 heads, 4,096 tokens, head dimension 128', grid: true, zero: true, nice: true },
    y: { type: 'log', label: 'relative L2 against float64', grid: true },
    marks: [
      Plot.dot(points, { x: 'ms', y: 'relL2', r: 5, fill: COLORS[0] }),
      Plot.text(points, { x: 'ms', y: 'relL2', text: 'variant', dy: -12, z: null }),
    ],
  });
}

function write(name, svg) {
  writeFileSync(new URL(`docs/images/${name}.svg`, root), svgFile(svg));
}
