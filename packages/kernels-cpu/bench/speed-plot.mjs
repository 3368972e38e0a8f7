// Time of attention against sequence length, ours and the peers', as one SVG that README shows.
import * as Plot from '@observablehq/plot';
import { lineNames, PICTURE_STYLE, plotSvg, svgFile } from '../../../tools/plot-svg.mjs';

const NAMES = {
  'full-int8': 'int-flash, INT8 (default)',
  fp32: 'int-flash, fp32',
  'ort-MultiHeadAttention': 'onnxruntime MultiHeadAttention',
  'ort-GroupQueryAttention': 'onnxruntime GroupQueryAttention',
  'ort-Attention-23': 'onnxruntime Attention (opset 23)',
};

/** @param results the bench's lines; those of prefill are drawn, a panel for each of causal and not, times head dimension. */
export function drawSpeedPlot(results) {
  const points = results
    .filter(({ bench, variant }) => bench === 'prefill' && NAMES[variant])
    .map(({ N, D, causal, variant, ms }) => ({
      tokens: N,
      ms,
      way: NAMES[variant],
      mask: causal ? 'causal' : 'not causal',
      dim: `head dimension ${D}`,
    }));
  const svg = plotSvg('Time of attention against sequence length, int-flash and onnxruntime-node', {
    width: 860,
    height: 620,
    marginLeft: 56,
    style: PICTURE_STYLE,
    x: {
      type: 'log',
      base: 2,
      label: 'tokens',
      ticks: [16, 64, 256, 1024, 4096],
      tickFormat: (n) => n.toLocaleString('en-US'),
    },
    y: { type: 'log', label: 'ms', grid: true, tickFormat: (ms) => `${ms}` },
    color: { domain: Object.values(NAMES), range: ['#0b6e4f', '#8bc34a', '#d1495b', '#8d6a9f', '#edae49'] },
    fx: { label: null },
    fy: { label: null },
    marks: [
      Plot.frame({ stroke: '#ddd' }),
      Plot.line(points, { x: 'tokens', y: 'ms', fx: 'dim', fy: 'mask', stroke: 'way', strokeWidth: 2, marker: 'dot' }),
      lineNames(Object.values(NAMES), { dim: 'head dimension 64', mask: 'causal' }),
    ],
  });
  return svgFile(svg);
}
