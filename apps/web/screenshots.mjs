#!/usr/bin/env node
// Takes the README's pictures of the page anew, with the shipped model answering:  npm run build && node apps/web/screenshots.mjs
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const CLI = fileURLToPath(new URL('../int-flash/dist/cli.js', import.meta.url));
const IMAGES = fileURLToPath(new URL('../../docs/images/', import.meta.url));
const MAX_BYTES = 200_000; // a README should load on a slow line
const VIEWPORT = { width: 1100, height: 720 };

const server = spawn(process.execPath, [CLI, 'serve', '--port', '0', '--json'], {
  stdio: ['ignore', 'pipe', 'inherit'],
});
const [line] = await once(server.stdout.setEncoding('utf8'), 'data');
const { url } = JSON.parse(line);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM_PATH ?? '/usr/bin/chromium',
  args: ['--headless', '--no-sandbox', '--disable-gpu'],
});
mkdirSync(IMAGES, { recursive: true });
try {
  for (const colorScheme of ['light', 'dark']) await takeChat(colorScheme);
  await takeLab();
} finally {
  await browser.close();
  server.kill('SIGTERM');
}

async function takeChat(colorScheme) {
  const page = await browser.newPage({ viewport: VIEWPORT, colorScheme });
  await page.goto(url);
  await page.getByRole('button', { name: 'Settings' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByLabel('Seed').fill('12'); // the demo's
  await dialog.getByLabel('Answer length').fill('120');
  await page.getByRole('button', { name: 'Save' }).click();
  for (const [index, text] of ['Hello! Who are you?', 'Tell me a story about a fox.'].entries()) {
    await page.getByRole('textbox', { name: 'Message' }).fill(text);
    await page.keyboard.press('Enter');
    await page.locator('article').nth(index).and(page.locator('[data-state=done]')).waitFor({ timeout: 60_000 });
  }
  await save(page, `chat-${colorScheme}.png`);
}

async function takeLab() {
  const page = await browser.newPage({ viewport: { ...VIEWPORT, height: 1000 }, colorScheme: 'light' });
  await page.goto(`${url}#lab`);
  await page.getByRole('button', { name: 'Run on the server' }).click();
  await page.getByText('Done: 5 kinds of arithmetic.').waitFor({ timeout: 60_000 });
  await page.mouse.move(0, 0);
  await page.evaluate(() => scrollTo(0, 0));
  await save(page, 'attention-lab.png');
}

async function save(page, name) {
  await page.screenshot({ path: `${IMAGES}${name}` });
  const { size } = statSync(`${IMAGES}${name}`);
  console.log(`${name} ${size} bytes`);
  if (size > MAX_BYTES) throw new Error(`Expected ${name} to be at most ${MAX_BYTES} bytes, got ${size}`);
}
