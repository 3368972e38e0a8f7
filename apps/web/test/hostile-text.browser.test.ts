import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ask, launchBrowser, openPage } from './browser';
import { describeInBrowser } from './describe-in-browser';
import { LEAKING_STRINGS, SCRIPT_STRINGS } from './hostile-strings';
import { PageServer } from './page-server';

const PIECE = 3; // characters an event: the page draws half a tag and half a link, as it would while a model writes one

describeInBrowser('hostile text', { timeout: 300_000 }, () => {
  let server: PageServer;
  let browser: Browser;

  beforeAll(async () => {
    [server, browser] = await Promise.all([PageServer.start(), launchBrowser()]);
    server.settings.pauseMs = 0;
  });
  afterAll(async () => {
    await browser?.close();
    await server?.stop();
  });

  it('has a policy whose violations this test would see', async () => {
    const { page, context, trespasses } = await openPage(browser, server.url);
    await page.evaluate(() => {
      const image = document.createElement('img');
      image.src = 'http://outside.test/';
      document.body.append(image);
    });
    await expect.poll(() => trespasses.violations).toEqual(['img-src http://outside.test/']);
    const parsed = await page.evaluate(() => {
      try {
        document.body.innerHTML = '<p>parsed</p>';
        return true;
      } catch {
        return false;
      }
    });
    expect(parsed).toBe(false);
    await context.close();
  });

  it.each([
    ['runs no script', SCRIPT_STRINGS, 40],
    ['asks nothing of anybody', LEAKING_STRINGS, 10],
  ])('%s, said by the user or by the model', async (_, strings, atLeast) => {
    expect(strings.length).toBeGreaterThanOrEqual(atLeast);
    const { page, context, trespasses } = await openPage(browser, server.url);
    for (const text of strings) {
      server.settings.answer = text.match(new RegExp(`[^]{1,${PIECE}}`, 'g'))!;
      await ask(page, text);
    }
    await expect.poll(() => page.locator('article[data-state=done]').count()).toBe(strings.length);
    expect(trespasses).toEqual({ outside: [], violations: [], events: [] });
    // What the user wrote is there to the character; the model's text is text, whatever it looks like.
    await expect.poll(() => page.locator('.said').allTextContents()).toEqual(strings.map((text) => text.trim()));
    const elements = await page
      .locator('.markdown *')
      .evaluateAll((all) => [...new Set(all.map((element) => element.localName))].sort());
    const ALLOWED = [
      'a',
      'button',
      'code',
      'header',
      'li',
      'p',
      'path',
      'pre',
      'section',
      'span',
      'svg',
      'table',
      'tbody',
      'td',
      'th',
      'thead',
      'tr',
      'ul',
    ];
    expect(elements.filter((name) => !ALLOWED.includes(name))).toEqual([]);
    const links = await page.locator('.markdown a').evaluateAll((all) => all.map((a) => a.getAttribute('href')!));
    expect(links.filter((href) => !/^(https?:\/\/|mailto:)/.test(href))).toEqual([]);
    const handlers = await page
      .locator('.markdown *')
      .evaluateAll((all) =>
        all.flatMap((element) => element.getAttributeNames().filter((name) => /^(on|style$)/.test(name))),
      );
    expect(handlers).toEqual([]);
    await context.close();
  });

  it('survives Markdown that nests ten thousand deep', async () => {
    const { page, context, trespasses } = await openPage(browser, server.url);
    server.settings.answer = ['>'.repeat(10_000), ' x'];
    await ask(page, 'deep');
    await expect.poll(() => page.locator('article[data-state=done]').textContent()).toContain('x');
    expect(trespasses.events).toEqual([]);
    await context.close();
  });
});
