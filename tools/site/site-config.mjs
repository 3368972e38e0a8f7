// What VitePress is told. It is copied beside the staged pages, with the sidebar in sidebar.json.
import { readFileSync } from 'node:fs';

const { sidebar, nav } = JSON.parse(readFileSync(new URL('sidebar.json', import.meta.url), 'utf8'));

/** The browser itself keeps a page from asking anything of another server. VitePress has small scripts and styles in its pages. */
const POLICY =
  "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'";

export default {
  title: 'int-flash',
  description: 'INT8 FlashAttention for Node, and a language model that runs on it',
  base: process.env.INT_FLASH_SITE_BASE ?? '/',
  outDir: '../site',
  cacheDir: './.vitepress/cache',
  head: [
    ['meta', { 'http-equiv': 'Content-Security-Policy', content: POLICY }],
    ['link', { rel: 'icon', type: 'image/svg+xml', href: `${process.env.INT_FLASH_SITE_BASE ?? '/'}icon.svg` }],
  ],
  themeConfig: { logo: '/icon.svg', nav, sidebar, outline: [2, 3], search: { provider: 'local' } },
};
