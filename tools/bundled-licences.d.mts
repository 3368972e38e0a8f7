import type { Options } from 'tsup';

export function writeNotices(folder: string, modules: Iterable<string>): void;
export const bundledLicences: NonNullable<Options['esbuildPlugins']>[number];
