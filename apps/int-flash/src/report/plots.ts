import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';

export interface PlotPoint {
  readonly x: number;
  /** A number for lines, a category for dots. */
  readonly y: number | string;
  readonly series: string;
}

export interface PlotText {
  readonly title: string;
  readonly x: string;
  readonly y: string;
}

const WIDTH = 760;
const LINES_HEIGHT = 360;
const BAND_HEIGHT = 34; // of one category of a dot plot
const AXES_HEIGHT = 80;

/** Lines over two logarithmic axes, x by powers of two; an HTML figure with its legend and one SVG. */
export function linePlot({ title, x, y }: PlotText, points: readonly PlotPoint[]): string {
  const xs = [...new Set(points.map((point) => point.x))].sort((a, b) => a - b);
  return render(title, {
    height: LINES_HEIGHT,
    x: { type: 'log', base: 2, label: x, ticks: xs, tickFormat: (value: number) => value.toLocaleString('en-US') },
    y: { type: 'log', label: y, grid: true },
    marks: [Plot.line(points, { x: 'x', y: 'y', stroke: 'series', z: 'series', strokeWidth: 2, marker: 'dot' })],
  });
}

/** Dots over a logarithmic axis, a row a category. */
export function dotPlot({ title, x, y }: PlotText, points: readonly PlotPoint[]): string {
  const categories = [...new Set(points.map((point) => point.y))];
  return render(title, {
    height: AXES_HEIGHT + BAND_HEIGHT * categories.length,
    marginLeft: 90,
    x: { type: 'log', label: x, grid: true },
    y: { label: y, domain: categories, grid: true },
    marks: [Plot.dot(points, { x: 'x', y: 'y', fill: 'series', r: 5 })],
  });
}

function render(title: string, options: Plot.PlotOptions): string {
  const { document } = parseHTML('<!doctype html><html><body></body></html>');
  const figure = Plot.plot({
    document: document as never,
    width: WIDTH,
    color: { type: 'categorical', legend: true },
    ...options,
  });
  const svgs = figure.localName === 'svg' ? [figure] : [...figure.querySelectorAll('svg')];
  for (const swatch of svgs.slice(0, -1)) swatch.setAttribute('aria-hidden', 'true'); // of the legend, whose text says it
  svgs.at(-1)!.setAttribute('role', 'img');
  svgs.at(-1)!.setAttribute('aria-label', title);
  return figure.outerHTML;
}
