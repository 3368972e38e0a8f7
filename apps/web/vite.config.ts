import { defineConfig } from 'vite';
import { fileList } from './file-list.ts';
import { licences } from './licences.ts';

export default defineConfig({
  base: './',
  publicDir: false, // every file is imported, so every file has a hash in its name
  build: {
    target: 'es2022',
    assetsInlineLimit: 0, // a data: URL would need a wider Content-Security-Policy
    modulePreload: false,
    sourcemap: false,
    reportCompressedSize: false,
  },
  logLevel: 'warn',
  plugins: [fileList(), licences()],
});
