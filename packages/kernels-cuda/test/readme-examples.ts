import { readFileSync } from 'node:fs';
import ts from 'typescript';

/** README's programs as functions of the package and a console. Their `await using` is beyond Node 20, so TypeScript lowers it. */
export function readmeExamples(): { imports: string[]; run: (kernels: object, console: object) => Promise<void> }[] {
  const text = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
  return [...text.matchAll(/```ts\n(.*?)```/gs)].map(([, program]) => {
    const [statement, names] = /import \{ (.*?) \} from '@int-flash\/kernels-cuda';/.exec(program!)!;
    const body = program!.replace(statement, `const { ${names} } = kernels;`);
    const source = `export async function example(kernels: any, console: any) { ${body} }`;
    const { outputText } = ts.transpileModule(source, {
      compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.CommonJS },
    });
    const exported: { example?: (kernels: object, console: object) => Promise<void> } = {};
    new Function('exports', outputText)(exported);
    return { imports: names!.split(', '), run: exported.example! };
  });
}
