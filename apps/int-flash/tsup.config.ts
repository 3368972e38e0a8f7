import { defineConfig } from 'tsup';
import { libraryBuild } from '../../tools/tsup-config';

export default defineConfig(libraryBuild({ entry: ['src/cli.ts'], format: ['esm'], shims: false }));
