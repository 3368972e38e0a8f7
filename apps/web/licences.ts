import type { Plugin } from 'vite';
import { writeNotices } from '../../tools/bundled-licences.mjs';

/** The licences of what the page's scripts hold, beside them: not served, but in the package. */
export function licences(): Plugin {
  return {
    name: 'int-flash:licences',
    writeBundle: ({ dir }, bundle) => {
      const chunks = Object.values(bundle).filter((output) => output.type === 'chunk');
      writeNotices(
        dir!,
        chunks.flatMap(({ moduleIds }) => moduleIds),
      );
    },
  };
}
