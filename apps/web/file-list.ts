import { readdirSync, writeFileSync } from 'node:fs';
import { extname, join } from 'node:path';
import type { Plugin } from 'vite';

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
};

/** Writes dist/files.json, `[{ path, type, file }]`: what a server may serve, and nothing else, without joining paths of a request. */
export function fileList(): Plugin {
  let folder = '';
  return {
    name: 'int-flash:file-list',
    configResolved: ({ build, root }) => {
      folder = join(root, build.outDir);
    },
    writeBundle: () => {
      const files = ['index.html', ...readdirSync(join(folder, 'assets')).map((name) => `assets/${name}`)].sort();
      const list = files.map((file) => {
        const type = TYPES[extname(file)];
        if (type === undefined) throw new Error(`Expected one of ${Object.keys(TYPES).join(', ')}, got ${file}`);
        return { path: file === 'index.html' ? '/' : `/${file}`, type, file };
      });
      writeFileSync(join(folder, 'files.json'), `${JSON.stringify(list, null, 2)}\n`);
    },
  };
}
