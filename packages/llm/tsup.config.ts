import { defineConfig, type Options } from 'tsup';
import { libraryBuild } from '../../tools/tsup-config';

type EsbuildPlugin = NonNullable<Options['esbuildPlugins']>[number];

/** The GGUF reader comes with descriptions of every task on the Hub, 350 kB that nothing here names: they may be left out. */
const dropUnusedTasks: EsbuildPlugin = {
  name: 'drop-unused-tasks',
  setup(build) {
    build.onResolve({ filter: /^@huggingface\/(gguf|tasks)$/ }, async ({ path, pluginData, ...args }) => {
      if (pluginData === dropUnusedTasks) return undefined; // its own question below
      return { ...(await build.resolve(path, { ...args, pluginData: dropUnusedTasks })), sideEffects: false };
    });
  },
};

export default defineConfig(libraryBuild({ esbuildPlugins: [dropUnusedTasks] }));
