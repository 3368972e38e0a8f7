import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, posix, relative } from 'node:path';
import { parseHTML } from 'linkedom';

/** Elements that make a browser ask for something by themselves, and where they say what. */
const LOADING = {
  script: 'src',
  img: 'src',
  link: 'href',
  iframe: 'src',
  source: 'srcset',
  video: 'src',
  audio: 'src',
  object: 'data',
};

/**
 * Every link within the site leads to a page and, with a fragment, to a place on it; nothing is loaded from elsewhere.
 * @param {string} folder a built site
 * @returns {string[]} problems
 */
export function checkSite(folder) {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath ?? entry.path, entry.name)).replaceAll('\\', '/'));
  const base = process.env.INT_FLASH_SITE_BASE ?? '/';
  const pages = new Map();
  for (const file of files.filter((name) => name.endsWith('.html'))) {
    pages.set(file, parseHTML(readFileSync(join(folder, file), 'utf8')).document);
  }
  const problems = [];
  for (const [file, document] of pages) {
    for (const [tag, attribute] of Object.entries(LOADING)) {
      for (const element of document.querySelectorAll(`${tag}[${attribute}]`)) {
        const target = element.getAttribute(attribute);
        if (/^([a-z]+:)?\/\//i.test(target)) problems.push(`${file} loads ${target} from outside`);
        else if (!target.startsWith('data:') && !files.includes(resolve(file, target)))
          problems.push(`${file} loads ${target}, which is not there`);
      }
    }
    for (const link of document.querySelectorAll('a[href]')) {
      const href = link.getAttribute('href');
      if (/^[a-z]+:/i.test(href)) continue;
      const [path, fragment] = href.split('#');
      const page = path === '' ? file : resolve(file, path);
      const document = pages.get(page);
      if (!document && !files.includes(page)) problems.push(`${file} links to ${href}, which is not there`);
      else if (fragment && document && !document.getElementById(decodeURIComponent(fragment)))
        problems.push(`${file} links to ${href}, a place that the page does not have`);
    }
  }
  for (const file of files.filter((name) => name.endsWith('.css'))) {
    for (const [, target] of readFileSync(join(folder, file), 'utf8').matchAll(/(?:url\(|@import\s+)["']?([^"')]+)/g)) {
      if (/^([a-z]+:)?\/\//i.test(target)) problems.push(`${file} loads ${target} from outside`);
    }
  }
  if (pages.size < 20) problems.push(`Expected at least 20 pages, got ${pages.size}`);
  return problems;

  function resolve(from, target) {
    const path = decodeURI(target.split(/[?#]/)[0]);
    const absolute = path.startsWith(base) ? path.slice(base.length) : posix.join(dirname(from), path);
    const candidates = [absolute, `${absolute}.html`, posix.join(absolute, 'index.html')];
    return candidates.find((candidate) => files.includes(candidate)) ?? absolute;
  }
}
