import { posix } from 'node:path';
import { resultTables } from './result-tables.mjs';

/**
 * One of the repository's documents as the site's generator takes it: links between documents become links between pages, links to
 * other files become their names, and measured tables stand where a comment asks for them.
 *
 * @param {string} source the document's path in the repository
 * @param {string} text
 * @param {Map<string, string>} places what every file that the site has is called there
 */
export function stagePage(source, text, places) {
  let fenced = false;
  const lines = text.split('\n').map((line) => {
    if (/^\s*(```|~~~)/.test(line)) fenced = !fenced;
    if (fenced) return line;
    const asked = /^<!-- results: ([\w-]+) -->$/.exec(line)?.[1];
    if (asked) return resultTables(asked);
    return line
      .replace(/<!--.*?-->/g, '') // what checks read
      .replace(/(!?)\[([^\]]*)\]\(([^)\s]+)\)/g, (whole, image, label, target) => {
        if (/^[a-z]+:/.test(target) || target.startsWith('#')) return whole;
        const [path, anchor] = target.split('#');
        const file = posix.normalize(posix.join(posix.dirname(source), path)).replace(/\/$/, '');
        const place = places.get(file);
        if (place !== undefined) return `${image}[${label}](/${place}${anchor ? `#${anchor}` : ''})`;
        return label.startsWith('`') ? label : `${label} (\`${file}\`)`;
      });
  });
  return lines.join('\n');
}

export function titleOf(text) {
  return /^# (.+)$/m.exec(text)?.[1].replaceAll('`', '') ?? '';
}
