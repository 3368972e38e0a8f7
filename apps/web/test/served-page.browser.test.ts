import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ask, launchBrowser, openPage } from './browser';
import { describeInBrowser } from './describe-in-browser';
import { serveShippedModel } from './served-model';

describeInBrowser('int-flash serve', { timeout: 120_000 }, () => {
  let server: Awaited<ReturnType<typeof serveShippedModel>>;
  let browser: Browser;

  beforeAll(async () => {
    [server, browser] = await Promise.all([serveShippedModel(), launchBrowser()]);
  }, 120_000);
  afterAll(async () => {
    await browser?.close();
    await server?.stop();
  });

  it('shows a page on which the shipped model answers', async () => {
    const { page, context, trespasses } = await openPage(browser, server.url);
    await page.getByRole('button', { name: 'Settings' }).click();
    await page.getByRole('dialog').getByLabel('Temperature').fill('0');
    await page.getByRole('button', { name: 'Save' }).click();
    await ask(page, 'Hello! Who are you?');
    await expect.poll(() => page.locator('article .markdown').textContent()).toMatch(/^I am /); // what it says at temperature 0
    await expect.poll(() => page.locator('article .facts').textContent()).toMatch(/\d+ tokens.*tokens\/s/);
    const status = (await (await fetch(`${server.url}api/status`)).json()) as {
      model: string;
      backend: { name: string };
    };
    await expect
      .poll(() => page.locator('.answering').textContent())
      .toContain(`${status.model} · int8 · ${status.backend.name}`);
    expect(trespasses).toEqual({ outside: [], violations: [], events: [] });
    await context.close();
  });

  it('stops when asked: the model is free again at once', async () => {
    const { page, context } = await openPage(browser, server.url);
    await page.getByRole('button', { name: 'Settings' }).click();
    await page.getByRole('dialog').getByLabel('Answer length').fill('900');
    await page.getByRole('button', { name: 'Save' }).click();
    await page.getByRole('textbox', { name: 'Message' }).fill('Tell me a story about a fox.');
    // Pressed by the page itself the moment it is there: on a fast machine an answer is over before a test could find it.
    await page.evaluate(() => {
      const press = (_changes: MutationRecord[], observer: MutationObserver) => {
        const button = document.querySelector<HTMLButtonElement>('button[aria-label="Stop the answer"]');
        if (!button || !document.querySelector('article[data-state=streaming]')) return;
        observer.disconnect();
        button.click();
      };
      new MutationObserver(press).observe(document.body, { childList: true, subtree: true, attributes: true });
    });
    await page.keyboard.press('Enter');
    await page.locator('article[data-state=stopped]').waitFor();
    const running = async () =>
      /^int_flash_\w*running\w* (\d+)$/m.exec(await (await fetch(`${server.url}metrics`)).text())?.[1];
    await expect.poll(running).toBe('0');
    await context.close();
  });

  it('offers every distribution and every kind of arithmetic that the server has', async () => {
    const { page, context } = await openPage(browser, `${server.url}#lab`);
    await page.getByRole('heading', { name: 'Attention lab' }).waitFor();
    // A refusal lists what there is.
    const known = async (wrong: object) => {
      const body = JSON.stringify({ family: 'normal', tokens: 8, heads: 1, headDim: 8, ...wrong });
      const headers = { 'content-type': 'application/json' };
      const refusal = await (await fetch(`${server.url}api/attention-lab`, { method: 'POST', headers, body })).json();
      return [...refusal.error.message.matchAll(/"([^"]+)"/g)].map(([, name]) => name);
    };
    const offered = page.getByRole('radio').evaluateAll((all) => all.map((input) => (input as HTMLInputElement).value));
    expect(await offered).toEqual(await known({ family: 'none' }));
    expect(await page.getByRole('group', { name: 'Arithmetic' }).getByRole('checkbox').count()).toBe(
      (await known({ variants: ['none'] })).length,
    );
    await context.close();
  });

  it('runs the attention lab: fp32 is exact, INT8 is close, one scale for all of V breaks at a sink', async () => {
    const { page, context, trespasses } = await openPage(browser, `${server.url}#lab`);
    await page.getByLabel('Tokens').selectOption('256');
    await page.getByRole('button', { name: 'Run on the server' }).click();
    await page.getByText('Done: 5 kinds of arithmetic.').waitFor({ timeout: 90_000 });
    const error = async (name: string) =>
      Number(await page.getByRole('row', { name }).getByRole('cell').nth(2).textContent());
    expect(await error('fp32 no quantization')).toBeLessThan(1e-5);
    expect(await error('full INT8')).toBeLessThan(0.03); // docs/arithmetic.md
    expect(await error('paper INT8')).toBeGreaterThan(0.1);
    await expect.poll(() => page.locator('.point').count()).toBe(5);
    expect(trespasses).toEqual({ outside: [], violations: [], events: [] });
    await context.close();
  });
});
