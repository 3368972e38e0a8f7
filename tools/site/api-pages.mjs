import { Application, LogLevel } from 'typedoc';
import { API_PACKAGES } from './site-pages.mjs';

/**
 * Writes a page for each package's front door. What is documented of something that does not exist, or links nowhere, fails.
 * @param {string} folder where to
 */
export async function writeApiPages(folder) {
  const app = await Application.bootstrapWithPlugins({
    entryPoints: API_PACKAGES.map((name) => `packages/${name}/src/index.ts`),
    tsconfig: 'tsconfig.json',
    plugin: ['typedoc-plugin-markdown'],
    skipErrorChecking: true, // typecheck has done it
    treatWarningsAsErrors: true,
    validation: {
      invalidLink: true,
      invalidPath: true,
      notExported: false,
      notDocumented: false,
      unusedMergeModuleWith: true,
    },
    out: folder,
    readme: 'none',
    disableSources: true,
    excludePrivate: true,
    excludeInternal: true,
    outputFileStrategy: 'modules',
    entryFileName: 'index',
    hidePageHeader: true,
    hideBreadcrumbs: true,
    useCodeBlocks: true,
    useHTMLAnchors: true, // typedoc's names of places are not VitePress's
    parametersFormat: 'table',
    interfacePropertiesFormat: 'table',
    logLevel: LogLevel.Warn,
  });
  const project = await app.convert();
  if (!project) throw new Error('typedoc could not read the packages');
  for (const module of project.children ?? []) module.name = `@int-flash/${module.name.replace(/\/src$/, '')}`;
  app.validate(project);
  if (app.logger.hasWarnings() || app.logger.hasErrors())
    throw new Error('The comments above say something that is not so');
  await app.generateOutputs(project);
}
