import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const { publicPackages, publishOrder, publishPackages } = await import(
  new URL('../../../tools/publishing.mjs', import.meta.url).href
);

describe('the order of a release', () => {
  it('has no package before what it depends on, and the command last', () => {
    const names: string[] = publishOrder(publicPackages()).map(
      ({ manifest }: { manifest: { name: string } }) => manifest.name,
    );
    expect(names.length).toBe(publicPackages().length);
    for (const { manifest } of publicPackages()) {
      for (const below of Object.keys({ ...manifest.dependencies, ...manifest.optionalDependencies })) {
        if (names.includes(below)) expect(names.indexOf(below)).toBeLessThan(names.indexOf(manifest.name));
      }
    }
    for (const library of ['@int-flash/kernels-cpu', '@int-flash/kernels-cuda'])
      expect(names.indexOf(`${library}-linux-x64`)).toBeLessThan(names.indexOf(library));
    expect(names.at(-1)).toBe('int-flash');
  });

  it('is none where packages need each other', () => {
    const circle = [
      { manifest: { name: 'a', dependencies: { b: '1' } } },
      { manifest: { name: 'b', dependencies: { a: '1' } } },
    ];
    expect(() => publishOrder(circle)).toThrow('a → b → a');
  });
});

it('does not take a misspelled option for a release', () => {
  const run = fileURLToPath(new URL('../../../tools/run.mjs', import.meta.url));
  const { status, stderr } = spawnSync(process.execPath, [run, 'release', '--dryrun'], { encoding: 'utf8' });
  expect([status, stderr]).toEqual([1, expect.stringContaining("Unknown option '--dryrun'")]);
});

describe('publishing', { timeout: 120_000 }, () => {
  let folder: string;
  let registry: Server;
  let asked: string[];
  const held = new Map<string, { versions: Record<string, unknown>; access?: string }>();

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'int-flash-publish-'));
    asked = [];
    held.clear();
    // As much of a registry as npm asks for.
    registry = createServer(async (request, response) => {
      const name = decodeURIComponent(request.url!.slice(1).split('?')[0]!);
      const body = Buffer.concat(await request.toArray()).toString();
      if (request.method === 'PUT') {
        asked.push(name);
        held.set(name, JSON.parse(body));
        response.writeHead(201, { 'content-type': 'application/json' }).end('{}');
        return;
      }
      const found = held.get(name);
      response.writeHead(found ? 200 : 404, { 'content-type': 'application/json' }).end(JSON.stringify(found ?? {}));
    });
    await new Promise<void>((resolve) => registry.listen(0, '127.0.0.1', resolve));
  });
  afterEach(() => {
    registry.close();
    rmSync(folder, { recursive: true });
  });

  const url = () => `http://127.0.0.1:${(registry.address() as AddressInfo).port}/`;
  const env = () => ({
    npm_config_userconfig: join(folder, 'npmrc'),
    npm_config_cache: join(folder, 'cache'),
    npm_config_update_notifier: 'false',
    npm_config_fetch_retries: '0',
    npm_config_loglevel: 'silent', // as under `npm --silent`: why it failed is told all the same
  });

  function packed(name: string) {
    const home = join(folder, name);
    mkdirSync(home);
    const manifest = { name: `@int-flash-test/${name}`, version: '1.2.3', scripts: { prepublishOnly: 'exit 7' } };
    writeFileSync(join(home, 'package.json'), JSON.stringify(manifest));
    execFileSync('tar', ['-czf', join(folder, `${name}.tgz`), '--transform', `s/^${name}/package/`, name], {
      cwd: folder,
    });
    return { manifest, tarball: join(folder, `${name}.tgz`) };
  }

  it('sends each for everybody, in order, without its scripts, and the second time none', async () => {
    writeFileSync(join(folder, 'npmrc'), `//${url().slice('http://'.length)}:_authToken=test\n`);
    const both = [packed('one'), packed('two')];
    const said: string[] = [];
    const options = { registry: url(), env: env(), say: (line: string) => said.push(line) };
    await publishPackages(both, options);
    expect(asked).toEqual(['@int-flash-test/one', '@int-flash-test/two']);
    for (const { versions, access } of held.values()) {
      expect([Object.keys(versions), access]).toEqual([['1.2.3'], 'public']);
    }
    await publishPackages(both, options);
    expect(asked).toHaveLength(2);
    expect(said.slice(2)).toEqual([
      '@int-flash-test/one@1.2.3 is there already',
      '@int-flash-test/two@1.2.3 is there already',
    ]);
  });

  it('sends nothing in a rehearsal, and says whose publishing failed', async () => {
    const one = [packed('one')];
    await publishPackages(one, { registry: url(), env: env(), dryRun: true });
    expect(asked).toEqual([]);
    await expect(publishPackages(one, { registry: url(), env: env() })).rejects.toThrow(
      /@int-flash-test\/one@1\.2\.3 was not published[\s\S]*ENEEDAUTH/,
    );
  });
});
