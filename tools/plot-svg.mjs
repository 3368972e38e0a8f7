import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';

/** What a plot looks like as a picture in a document, whatever the reader's colours. */
export const PICTURE_STYLE = { background: 'white', color: 'black', fontFamily: 'sans-serif' };

/**
 * One plot as an SVG element, told to screen readers by its title.
 * @param {string} title
 * @param {Plot.PlotOptions} options
 */
export function plotSvg(title, options) {
  const { document } = parseHTML('<!doctype html><html><body></body></html>');
  const svg = Plot.plot({ document, ...options });
  svg.setAttribute('role', 'img');
  svg.setAttribute('aria-label', title);
  return svg;
}

/** The text of an SVG file. */
export function svgFile(svg) {
  svg.setAttribute('xmlns', 'http://www.w3.org/2000/svg');
  return `${svg.outerHTML.replace('  height: intrinsic;\n', '')}\n`;
}

/** The names of lines in their colours, in the corner of the panel that `facet` names: {fx, fy} of the channels `dim` and `mask`. */
export function lineNames(names, { dim, mask }) {
  return Plot.text(
    names.map((way, i) => ({ way, i, dim, mask })),
    {
      fx: 'dim',
      fy: 'mask',
      frameAnchor: 'top-left',
      dx: 10,
      dy: (d) => 10 + d.i * 15,
      text: 'way',
      fill: 'way',
      z: null,
      fontWeight: 'bold',
    },
  );
}
