import * as Plot from '@observablehq/plot';
import { plotSvg } from '../plot-svg.mjs';

/** Bars over a logarithmic axis, a group of them for each input, as one inline SVG that takes the page's colours. */
export function barPlot({ title, groups, series, value }) {
  const bars = groups.flatMap((group) => series.map((name) => ({ group, name, value: value(group, name) })));
  const least = 10 ** Math.floor(Math.log10(Math.min(...bars.map((bar) => bar.value))));
  const svg = plotSvg(title, {
    width: 688,
    height: 60 + groups.length * (series.length * 15 + 12),
    marginLeft: 80,
    marginRight: 70,
    style: { background: 'none', fontFamily: 'inherit' },
    fy: { domain: groups, label: null, padding: 0.15 },
    x: { type: 'log', domain: [least, 1], grid: true, label: title, tickFormat: String },
    y: { domain: series, label: null, tickSize: 0 },
    color: { domain: series, scheme: 'observable10' },
    marks: [Plot.barX(bars, { fy: 'group', y: 'name', x1: least, x2: 'value', fill: 'name', inset: 1 })],
  });
  svg.querySelector('style')?.remove(); // Vue takes none from a page
  return `<div v-pre>${svg.outerHTML.replace(/\n\s*/g, '')}</div>`; // an empty line would end it
}
