import { defineConfig } from 'tsup';
import { libraryBuild } from '../../tools/tsup-config';

export default defineConfig(libraryBuild());
