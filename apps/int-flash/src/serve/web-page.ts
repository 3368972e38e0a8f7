import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Hono } from 'hono';
import { z } from 'zod';
import type { ServeEnv } from './completion-routes.js';

interface PageFile {
  readonly type: string;
  readonly body: Uint8Array<ArrayBuffer>;
  readonly etag: string;
  /** Its name holds a digest of its content, so it never changes. */
  readonly isImmutable: boolean;
}

/** The chat page's files by the path they are served under: a fixed list, read at the start. */
export interface WebPage {
  readonly files: ReadonlyMap<string, PageFile>;
}

const MANIFEST = z.array(
  z.strictObject({
    path: z.string().regex(/^\/[\w./-]*$/),
    type: z.string().max(100),
    file: z
      .string()
      .regex(/^[\w.-]+(\/[\w.-]+)*$/)
      .refine((file) => !file.split('/').includes('..')),
  }),
);

/** The built page, or one that says how to build it. */
export function loadWebPage(folder: string | undefined = webFolder()): WebPage {
  try {
    if (folder === undefined) throw new Error('not installed');
    const list = MANIFEST.parse(JSON.parse(readFileSync(join(folder, 'files.json'), 'utf8')));
    return {
      files: new Map(
        list.map(({ path, type, file }) => [path, pageFile(readFileSync(join(folder, file)), type, file)]),
      ),
    };
  } catch {
    const text = 'The chat page is not built. In a checkout of the repository, npm run build builds it.\n';
    return { files: new Map([['/', pageFile(Buffer.from(text), 'text/plain; charset=utf-8', '')]]) };
  }
}

export function mountWebPage(app: Hono<ServeEnv>, page: WebPage): void {
  for (const [path, { type, body, etag, isImmutable }] of page.files) {
    const headers = {
      'content-type': type,
      etag,
      'cache-control': isImmutable ? 'public, max-age=31536000, immutable' : 'no-cache',
    };
    app.get(path, (c) =>
      c.req.header('if-none-match') === etag ? c.body(null, 304, headers) : c.body(body, 200, headers),
    );
  }
}

function pageFile(content: Buffer, type: string, file: string): PageFile {
  const digest = createHash('sha256').update(content).digest('base64url').slice(0, 22);
  return {
    type,
    body: new Uint8Array(content),
    etag: `"${digest}"`,
    isImmutable: /-[\w-]{8,}\.\w+$/.test(file),
  };
}

/** Packed with this command; in a checkout, beside it, from dist/ and from src/serve/. */
function webFolder(): string | undefined {
  const folders = ['../web/', '../../web/dist/', '../../../web/dist/'].map((path) =>
    fileURLToPath(new URL(path, import.meta.url)),
  );
  return folders.find((folder) => existsSync(join(folder, 'files.json')));
}
