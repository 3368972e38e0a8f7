import type { Browser, BrowserContext, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import { ask, launchBrowser, openPage, type Trespasses } from './browser';
import { describeInBrowser } from './describe-in-browser';
import { PageServer } from './page-server';

describeInBrowser('the chat', () => {
  let browser: Browser;
  let server: PageServer;
  let page: Page;
  let context: BrowserContext;
  let trespasses: Trespasses;
  const answer = () => page.locator('article').last();

  beforeAll(async () => {
    browser = await launchBrowser();
  });
  afterAll(() => browser?.close());
  beforeEach(async () => {
    server = await PageServer.start();
    ({ page, context, trespasses } = await openPage(browser, server.url));
  });
  afterEach(async () => {
    expect(trespasses).toEqual({ outside: [], violations: [], events: [] });
    await context.close();
    await server.stop();
  });

  it('shows an answer as Markdown, with its length and pace, and which model on what gave it', async () => {
    server.settings.answer = ['I am **bold** and\n\n', '- listed\n\n', '```js\nlet code;\n```\n'];
    await ask(page, 'Hello!');
    await expect.poll(() => answer().locator('strong').textContent()).toBe('bold');
    await expect.poll(() => answer().locator('li').first().textContent()).toBe('listed');
    await expect.poll(() => answer().locator('pre code').textContent()).toBe('let code;');
    await expect
      .poll(() => answer().locator('.facts').textContent())
      .toMatch(/^3 tokens[\d.]+ tokens\/sfirst after \d+ ms$/);
    await expect
      .poll(() => page.locator('.answering').textContent())
      .toContain('test-model · int8 · portable, 1 thread');
    await expect.poll(() => page.locator('.context').textContent()).toContain('4% of its context'); // 20 of the prompt and 3 of the answer, of 512;
    await expect.poll(() => page.getByRole('status').first().textContent()).toContain('The model said: I am **bold**');
  });

  it('sends the conversation so far, with the sampling that the model’s makers advise', async () => {
    await ask(page, 'First');
    await ask(page, 'Second');
    expect(server.asked[1]).toEqual({
      messages: [
        { role: 'user', content: 'First' },
        { role: 'assistant', content: 'Hello there.' },
        { role: 'user', content: 'Second' },
      ],
      stream: true,
      stream_options: { include_usage: true },
      temperature: 0.9,
      top_p: 0.92,
      max_tokens: 256,
    });
  });

  it.each(['button', 'Escape'])('stops an answer by %s, and the server hears of it', async (how) => {
    server.settings.answer = Array.from({ length: 5000 }, (_, index) => `${index} `); // longer than any test
    server.settings.pauseMs = 20;
    await page.getByRole('textbox', { name: 'Message' }).fill('Count');
    await page.keyboard.press('Enter');
    await page.getByText('3 ').first().waitFor();
    await page.getByRole('textbox', { name: 'Message' }).fill('A draft');
    if (how === 'button') await page.getByRole('button', { name: 'Stop the answer' }).click();
    else await page.keyboard.press('Escape');
    await expect.poll(() => server.hungUp).toBe(1);
    await expect.poll(() => answer().getAttribute('data-state')).toBe('stopped');
    await expect.poll(() => answer().locator('.facts').textContent()).toContain('stopped');
    expect(await page.getByRole('textbox', { name: 'Message' }).inputValue()).toBe('A draft');
    expect(server.asked.length).toBe(1);
    server.settings.answer = ['On we go.'];
    await ask(page, 'And now?');
    await expect.poll(() => answer().locator('.markdown').textContent()).toBe('On we go.');
  });

  it('answers again in place of the last answer', async () => {
    await ask(page, 'Once');
    server.settings.answer = ['Another'];
    await page.getByRole('button', { name: 'Answer again' }).click();
    await answer().getByText('Another').waitFor();
    await expect.poll(() => page.locator('article').count()).toBe(1);
    expect(server.asked[1]).toEqual(server.asked[0]);
  });

  it('uses the settings from then on, and lets go of them on Model’s own', async () => {
    await page.getByRole('button', { name: 'Settings' }).click();
    const field = (name: string) => page.getByRole('dialog').getByLabel(name);
    await field('System prompt').fill('Be brief.');
    await field('Temperature').fill('0');
    await field('Top p').fill('0.5');
    await field('Answer length').fill('17');
    await field('Seed').fill('42');
    await page.getByRole('button', { name: 'Save' }).click();
    await ask(page, 'Hello');
    expect(server.asked[0]).toMatchObject({
      messages: [
        { role: 'system', content: 'Be brief.' },
        { role: 'user', content: 'Hello' },
      ],
      temperature: 0,
      top_p: 0.5,
      max_tokens: 17,
      seed: 42,
    });
    await page.getByRole('button', { name: 'Settings' }).click();
    await page.getByRole('button', { name: 'Model’s own' }).click();
    await page.getByRole('button', { name: 'Save' }).click();
    await ask(page, 'Hello');
    expect(server.asked[1]).toMatchObject({ temperature: 0.9, max_tokens: 256 });
    expect(server.asked[1]).not.toHaveProperty('seed');
  });

  it('does not save a setting out of its range', async () => {
    await page.getByRole('button', { name: 'Settings' }).click();
    await page.getByLabel('Temperature').fill('9');
    await page.getByRole('button', { name: 'Save' }).click();
    await page.getByRole('dialog').locator('input:invalid').waitFor();
    expect(await page.getByRole('dialog').isVisible()).toBe(true);
    await page.keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'hidden' });
    await ask(page, 'Hello');
    expect(server.asked[0]).toMatchObject({ temperature: 0.9 });
  });

  it('drops the oldest turns when the context is full, and says so', async () => {
    server.settings.maxMessages = 3;
    for (const text of ['One', 'Two', 'Three']) await ask(page, text);
    const { messages } = server.asked.at(-1) as { messages: { content: string }[] };
    expect(messages.map(({ content }) => content)).toEqual(['Two', 'Hello there.', 'Three']);
    await expect.poll(() => page.locator('.fold').textContent()).toContain('no longer sees');
    await expect.poll(() => page.locator('.message.forgotten').count()).toBe(2);
  });

  it('shows what the server refused, and goes on', async () => {
    server.settings.refusal = {
      status: 429,
      error: { message: 'The queue is full', code: 'queue_full' },
      headers: { 'retry-after': '7' },
    };
    await ask(page, 'Hello');
    await expect.poll(() => page.getByRole('alert').textContent()).toBe('The queue is full Try again in 7 s.');
    server.settings.refusal = undefined;
    await page.getByRole('button', { name: 'Answer again' }).click();
    await answer().getByText('Hello there.').waitFor();
  });

  it('keeps what came before the stream failed', async () => {
    server.settings.breakWith = 'The server is shutting down';
    await ask(page, 'Hello');
    await expect.poll(() => answer().locator('.markdown').textContent()).toBe('Hello there.');
    await expect.poll(() => page.getByRole('alert').textContent()).toBe('The server is shutting down');
  });

  it('starts afresh', async () => {
    await ask(page, 'Hello');
    await page.getByRole('button', { name: 'New chat' }).click();
    await page.locator('.welcome').waitFor();
    await expect.poll(() => page.locator('.message').count()).toBe(0);
  });

  it('keeps nothing: a reload forgets, and the browser has stored nothing', async () => {
    await ask(page, 'A secret');
    const stored = await page.evaluate(async () => ({
      local: localStorage.length,
      session: sessionStorage.length,
      databases: (await indexedDB.databases()).length,
      cookies: document.cookie,
    }));
    expect(stored).toEqual({ local: 0, session: 0, databases: 0, cookies: '' });
    await page.reload();
    await page.locator('.welcome').waitFor();
    await expect.poll(() => page.locator('.message').count()).toBe(0);
  });

  it('continues text when the model has no chat template', async () => {
    server.settings.chatTemplate = false;
    await page.reload();
    await ask(page, 'Once upon a time');
    expect(server.asked[0]).toMatchObject({ prompt: 'Once upon a time', stream: true });
    await expect.poll(() => answer().locator('.markdown').textContent()).toBe('Hello there.');
  });

  it('works with the keyboard alone', async () => {
    const focused = () =>
      page.evaluate(
        () => document.activeElement?.getAttribute('aria-label') ?? document.activeElement?.textContent ?? '',
      );
    const tabTo = async (name: string) => {
      for (let step = 0; step < 30; step++) {
        if ((await focused()).trim() === name) return;
        await page.keyboard.press('Tab');
      }
      throw new Error(`Expected Tab to reach ${name}`);
    };
    await page.locator('#message:focus').waitFor(); // the page opens with the cursor in the box
    await page.keyboard.type('Hello');
    await page.keyboard.press('Shift+Enter');
    await page.keyboard.type('there');
    await page.keyboard.press('Enter');
    await page.locator('article[data-state=done]').waitFor();
    expect(server.asked[0]).toMatchObject({ messages: [{ content: 'Hello\nthere' }] });
    await tabTo('Settings');
    await page.keyboard.press('Enter');
    await page.getByRole('dialog').waitFor();
    await page.keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'hidden' });
    await expect.poll(async () => (await focused()).trim()).toBe('Settings'); // back where it was opened
    server.settings.answer = ['Once more.'];
    await tabTo('Answer again');
    await page.keyboard.press('Enter');
    await page.locator('article[data-state=done]').getByText('Once more.').waitFor();
    expect(server.asked.length).toBe(2);
    await tabTo('Chat');
    await page.keyboard.press('ArrowRight');
    await page.getByRole('heading', { name: 'Attention lab' }).waitFor();
    await tabTo('Run on the server');
    await page.keyboard.press('Enter');
    await page.getByRole('cell', { name: '12.3' }).waitFor();
  });

  it('follows the system’s colours until it is told otherwise', async () => {
    const paper = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
    await page.emulateMedia({ colorScheme: 'dark' });
    await page.reload();
    await page.getByRole('button', { name: 'Use light colours' }).waitFor();
    const dark = await paper();
    await page.getByRole('button', { name: 'Use light colours' }).click();
    await page.getByRole('button', { name: 'Use dark colours' }).waitFor();
    await expect.poll(paper).not.toBe(dark);
    await page.getByRole('button', { name: 'Use dark colours' }).click();
    await page.getByRole('button', { name: 'Use light colours' }).waitFor();
    await expect.poll(paper).toBe(dark);
  });
});

describeInBrowser('a server with a key', () => {
  it('is asked for it only then, and sent it with every request', async () => {
    const [server, browser] = await Promise.all([PageServer.start(), launchBrowser()]);
    server.settings.key = 'right';
    const { page, trespasses } = await openPage(browser, server.url);
    await page.getByLabel('API key').fill('wrong');
    await page.getByRole('button', { name: 'Continue' }).click();
    await page.getByText('The server refused this key.').waitFor();
    await page.getByLabel('API key').fill('right');
    await page.getByRole('button', { name: 'Continue' }).click();
    await ask(page, 'Hello');
    await expect.poll(() => page.locator('article .markdown').textContent()).toBe('Hello there.');
    expect(await page.evaluate(() => localStorage.length + sessionStorage.length)).toBe(0);
    expect(trespasses).toEqual({ outside: [], violations: [], events: [] });
    await browser.close();
    await server.stop();
  });

  it('says so when the server is gone', async () => {
    const [server, browser] = await Promise.all([PageServer.start(), launchBrowser()]);
    const { page } = await openPage(browser, server.url);
    await page.getByRole('textbox', { name: 'Message' }).waitFor();
    await server.stop();
    await ask(page, 'Hello?');
    await expect.poll(() => page.getByRole('alert').textContent()).toContain('does not answer');
    await browser.close();
  });
});
