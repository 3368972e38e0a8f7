// A bundle holds other people's code, and their licences ask that their words come along.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

const NOTICES = 'THIRD_PARTY_LICENSES.txt';

const PACKAGE_FOLDER = /^(.*[\\/]node_modules[\\/](?:@[^\\/]+[\\/])?[^\\/]+)[\\/]/;

/**
 * Writes the licences of all packages that `modules` come from into `folder`; nothing when there are none.
 * @param {Iterable<string>} modules files that a bundler put into its output
 */
export function writeNotices(folder, modules) {
  const packages = new Set([...modules].map((path) => PACKAGE_FOLDER.exec(path)?.[1]).filter(Boolean));
  if (packages.size === 0) return;
  const notices = [...packages].map(notice).sort();
  const head = 'Parts of these packages are in the files beside this one, under their own licences.\n';
  mkdirSync(folder, { recursive: true }); // esbuild has not written yet
  writeFileSync(join(folder, NOTICES), [head, ...new Set(notices)].join(`\n${'-'.repeat(80)}\n\n`));
}

function notice(folder) {
  const { name, version, license } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  const files = readdirSync(folder).filter((file) => /^(licen[cs]e|copying|notice)([.-]|$)/i.test(file));
  if (files.length === 0)
    throw new Error(`Expected ${name} to hold the text of its licence (${license}): do not bundle it`);
  const texts = files.sort().map((file) => readFileSync(join(folder, file), 'utf8').trim());
  return `${name} ${version} (${license})\n\n${texts.join('\n\n')}\n`;
}

/** The same for esbuild, which tsup runs. Of a module that was left out as unused no byte is in the output. */
export const bundledLicences = {
  name: 'bundled-licences',
  setup(build) {
    build.initialOptions.metafile = true;
    build.onEnd(({ metafile, errors }) => {
      const { outdir = 'dist' } = build.initialOptions;
      if (errors.length > 0) return;
      const used = Object.values(metafile?.outputs ?? {}).flatMap(({ inputs }) =>
        Object.entries(inputs).flatMap(([path, { bytesInOutput }]) => (bytesInOutput > 0 ? [resolve(path)] : [])),
      );
      writeNotices(outdir, used);
    });
  },
};
