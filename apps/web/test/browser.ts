import { existsSync } from 'node:fs';
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core';

/** The browser there is. */
export const INSTALLED = [
  process.env.CHROMIUM_PATH ?? '',
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
].find((path) => path !== '' && existsSync(path));

/** A browser of its own for each test file, with everything off that would speak to the network by itself. */
export function launchBrowser(): Promise<Browser> {
  return chromium.launch({
    executablePath: INSTALLED!,
    args: [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
}

/** What happened in a context that should not have. */
export interface Trespasses {
  /** Requests to anything but the page's own server. */
  readonly outside: string[];
  /** Scripts and resources that the Content-Security-Policy had to stop. */
  readonly violations: string[];
  /** Dialogs, new windows, and exceptions. */
  readonly events: string[];
}

/** A page at `url`, watched. */
export async function openPage(
  browser: Browser,
  url: string,
  options: Parameters<Browser['newContext']>[0] = {},
): Promise<{ page: Page; context: BrowserContext; trespasses: Trespasses }> {
  const context = await browser.newContext(options);
  const trespasses: Trespasses = { outside: [], violations: [], events: [] };
  const { origin } = new URL(url);
  await context.exposeFunction('reportViolation', (what: string) => trespasses.violations.push(what));
  await context.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', ({ violatedDirective, blockedURI }) => {
      (window as unknown as { reportViolation: (what: string) => void }).reportViolation(
        `${violatedDirective} ${blockedURI}`,
      );
    });
  });
  context.on('request', (request) => {
    if (!request.url().startsWith(`${origin}/`)) trespasses.outside.push(request.url());
  });
  const page = await context.newPage();
  context.on('page', (opened) => trespasses.events.push(`window ${opened.url()}`));
  page.on('dialog', (dialog) => {
    trespasses.events.push(`dialog ${dialog.message()}`);
    void dialog.dismiss();
  });
  page.on('pageerror', (error) => trespasses.events.push(`error ${error.message}`));
  page.on('framenavigated', (frame) => {
    if (!frame.url().startsWith(url)) trespasses.events.push(`navigated to ${frame.url()}`);
  });
  await page.goto(url);
  return { page, context, trespasses };
}

/** Sends a message and waits for the whole answer. */
export async function ask(page: Page, text: string): Promise<void> {
  const answers = page.locator('article[data-state]');
  const before = await answers.count();
  await page.getByRole('textbox', { name: 'Message' }).fill(text);
  await page.getByRole('button', { name: 'Send' }).click();
  await answers.nth(before).locator('xpath=self::*[@data-state="done" or @data-state="failed"]').waitFor();
}
