import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ask, launchBrowser, openPage } from './browser';
import { describeInBrowser } from './describe-in-browser';
import { PageServer } from './page-server';

// Evaluated through the debugger, which the page's policy does not concern; a script element would be blocked.
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

async function violations(page: Page): Promise<string[]> {
  await page.evaluate(axe);
  return page.evaluate(async () => {
    const { axe } = window as unknown as { axe: typeof import('axe-core') };
    const { violations } = await axe.run({
      runOnly: { type: 'tag', values: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] },
    });
    return violations.flatMap(({ id, nodes }) => nodes.map(({ target }) => `${id}: ${target.join(' ')}`));
  });
}

describeInBrowser('accessibility', { timeout: 120_000 }, () => {
  let server: PageServer;
  let browser: Browser;

  beforeAll(async () => {
    [server, browser] = await Promise.all([PageServer.start(), launchBrowser()]);
    server.settings.answer = [
      '# Title\n\nText with [a link](https://example.org), `code` and\n\n',
      '```js\nlet a;\n```\n\n| a | b |\n|--|--|\n| 1 | 2 |\n',
    ];
  });
  afterAll(async () => {
    await browser?.close();
    await server?.stop();
  });

  const looks = [
    { colorScheme: 'light', width: 1100 },
    { colorScheme: 'dark', width: 390 },
  ] as const;
  it.each(looks)('axe finds nothing, $colorScheme, $width px wide', async ({ colorScheme, width }) => {
    const { page, context } = await openPage(browser, server.url, { colorScheme, viewport: { width, height: 800 } });
    await page.getByRole('heading', { level: 1 }).first().waitFor();
    expect(await violations(page), 'welcome').toEqual([]);
    await ask(page, 'Hello');
    expect(await violations(page), 'conversation').toEqual([]);
    server.settings.refusal = { status: 503, error: { message: 'Busy' } };
    await ask(page, 'Hello');
    await page.getByRole('alert').waitFor();
    server.settings.refusal = undefined;
    expect(await violations(page), 'refusal').toEqual([]);
    await page.getByRole('button', { name: 'Settings' }).click();
    await page.getByRole('dialog').waitFor();
    expect(await violations(page), 'settings').toEqual([]);
    await page.keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'hidden' });
    await page.getByRole('tab', { name: 'Attention lab' }).click();
    await page.getByRole('heading', { name: 'Attention lab' }).waitFor();
    expect(await violations(page), 'lab').toEqual([]);
    await page.getByRole('button', { name: 'Run on the server' }).click();
    await page.getByRole('cell', { name: '12.3' }).waitFor();
    expect(await violations(page), 'lab with results').toEqual([]);
    expect(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'no sideways scrolling').toBe(
      true,
    );
    await context.close();
  });

  it('axe finds nothing where a key is asked for', async () => {
    server.settings.key = 'right';
    const { page, context } = await openPage(browser, server.url);
    await page.getByLabel('API key').waitFor();
    expect(await violations(page)).toEqual([]);
    server.settings.key = undefined;
    await context.close();
  });
});
