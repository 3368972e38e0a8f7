import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { launchBrowser, openPage } from './browser';
import { describeInBrowser } from './describe-in-browser';
import { PageServer } from './page-server';

describeInBrowser('the attention lab', () => {
  let browser: Browser;
  let server: PageServer;
  let page: Page;

  beforeAll(async () => {
    [server, browser] = await Promise.all([PageServer.start(), launchBrowser()]);
  });
  afterAll(async () => {
    await browser?.close();
    await server?.stop();
  });
  beforeEach(async () => {
    server.settings.pauseMs = 5;
    ({ page } = await openPage(browser, `${server.url}#lab`));
  });

  it('draws each result as a point and a row, and says what could not run', async () => {
    await page.getByRole('button', { name: 'Run on the server' }).click();
    await page.getByText('Done: 2 kinds of arithmetic.').waitFor();
    await expect.poll(() => page.locator('.point').count()).toBe(2);
    const place = async (variant: string) => (await page.locator(`.point.${variant} circle`).boundingBox())!;
    // Both in one look: a page that is still being laid out moves them together.
    const apart = async () => {
      const [int8, fp32] = await Promise.all([place('full-int8'), place('fp32')]);
      return { isFaster: int8.x < fp32.x, isHigher: int8.y < fp32.y }; // higher: less exact
    };
    await expect.poll(apart).toEqual({ isFaster: true, isHigher: true });
    const row = page.getByRole('row', { name: /full INT8/ });
    await expect
      .poll(() => row.getByRole('cell').allTextContents())
      .toEqual(['12.3', '2.56×', '0.0153', '1e-4', '0.01']);
    await page.getByText('Expected no INT4 here').waitFor();
  });

  it('lets no point lie on the name of another', async () => {
    const result = { type: 'result', repeats: 9, cosine: 0.97, worst: 0.1 };
    const { lab } = server.settings;
    server.settings.lab = [
      lab[0]!,
      { ...result, variant: 'full-int8', ms: 2.4, relativeL2: 0.016 },
      { ...result, variant: 'paper-int8', ms: 2.36, relativeL2: 0.233 },
      { ...result, variant: 'int4-qk', ms: 2.42, relativeL2: 0.228 },
      { ...result, variant: 'fp32', ms: 6, relativeL2: 2e-6 },
      { type: 'end' },
    ];
    await page.getByRole('button', { name: 'Run on the server' }).click();
    await page.getByText('Done: 4 kinds of arithmetic.').waitFor();
    const boxes = (what: string) =>
      page.locator(what).evaluateAll((all) => all.map((element) => element.getBoundingClientRect().toJSON()));
    const [circles, names] = [await boxes('.point circle'), await boxes('.point text')];
    const covered = names.filter((name) =>
      circles.some(
        (circle) =>
          circle.left < name.right &&
          circle.right > name.left &&
          circle.top + 3 < name.bottom &&
          circle.bottom - 3 > name.top,
      ),
    );
    expect(covered).toEqual([]);
    server.settings.lab = lab;
  });

  it.each([
    ['at the same place', [2.4, 2.4, 2.4], [0.23, 0.23, 0.23]],
    ['almost there', [2.36, 2.4, 2.42], [0.233, 0.228, 0.23]],
    ['in a row', [2.4, 2.44, 2.48], [0.23, 0.23, 0.23]],
  ])('lets no point cover another: three %s', async (_, ms, relativeL2) => {
    await page.setViewportSize({ width: 1100, height: 1400 }); // all of it in sight
    const result = { type: 'result', repeats: 9, cosine: 0.97, worst: 0.1 };
    const { lab } = server.settings;
    const kinds = ['full-int8', 'paper-int8', 'int4-qk'];
    server.settings.lab = [
      lab[0]!,
      ...kinds.map((variant, i) => ({ ...result, variant, ms: ms[i], relativeL2: relativeL2[i] })),
      { ...result, variant: 'fp32', ms: 6, relativeL2: 2e-6 },
      { type: 'end' },
    ];
    await page.getByRole('button', { name: 'Run on the server' }).click();
    await page.getByText('Done: 4 kinds of arithmetic.').waitFor();
    server.settings.lab = lab;
    const marks = await page.locator('.point circle').evaluateAll((circles) =>
      circles.map((circle) => {
        const { left, right, top, bottom } = circle.getBoundingClientRect();
        let seen = 0; // pixels of it that nothing lies on
        for (let y = top + 0.5; y < bottom; y++) {
          for (let x = left + 0.5; x < right; x++) if (document.elementFromPoint(x, y) === circle) seen++;
        }
        const name = circle.parentElement!.querySelector('text')!;
        return { kind: circle.parentElement!.classList[1]!, seen, x: (left + right) / 2, name: name.textContent! };
      }),
    );
    expect(marks.map(({ kind }) => kind).sort()).toEqual([...kinds, 'fp32'].sort());
    for (const { kind, seen } of marks) expect(seen, kind).toBeGreaterThan(60); // a dot alone has about 120
    // Each at its own place, and its name says which mark is meant.
    const at = (kind: string) => marks.find((mark) => mark.kind === kind)!;
    for (const [i, kind] of kinds.entries()) {
      for (const [j, other] of kinds.entries()) {
        expect(Math.sign(Math.round(at(kind).x - at(other).x)) + 0).toBe(Math.sign(ms[i]! - ms[j]!));
      }
    }
    expect(at('full-int8').name).toBe('full INT8 (dot)');
    expect(at('paper-int8').name).toBe('paper INT8 (ring)');
    expect(at('fp32').name).toBe('fp32');
  });

  it.each([
    [1100, 1000],
    [1100, 720],
    [1280, 600],
    [375, 667],
  ])(
    'has its button in a window of %i × %i pixels, wherever the form is, and nothing in focus below it',
    async (width, height) => {
      await page.setViewportSize({ width, height });
      const run = page.getByRole('button', { name: 'Run on the server' });
      const isInSight = () =>
        run.evaluate((button) => {
          const { left, right, top, bottom } = button.getBoundingClientRect();
          const there = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
          return top >= 0 && bottom <= innerHeight && there === button;
        });
      await run.waitFor();
      expect(await isInSight()).toBe(true);
      const inputs = page.locator('.lab-form :is(input:checked, select, input[type=number])');
      for (const input of await inputs.all()) {
        await input.focus();
        const bottom = await input.evaluate((element) => element.getBoundingClientRect().bottom);
        const top = await run.evaluate((button) => button.parentElement!.getBoundingClientRect().top);
        expect(bottom).toBeLessThanOrEqual(top);
        expect(await isInSight()).toBe(true);
      }
    },
  );

  it('stops a run, and the server hears of it', async () => {
    server.settings.pauseMs = 60_000;
    await page.getByRole('button', { name: 'Run on the server' }).click();
    await page.getByText('Running: asking the server.').waitFor();
    await page.getByRole('button', { name: 'Stop' }).click();
    await page.getByText('Stopped.').waitFor();
    await expect.poll(() => server.hungUp).toBe(1);
  });

  it('asks for at least one kind of arithmetic', async () => {
    const boxes = page.getByRole('group', { name: 'Arithmetic' }).getByRole('checkbox');
    await boxes.first().waitFor(); // all() does not wait: on a busy machine the tab is not drawn yet
    for (const box of await boxes.all()) await box.uncheck();
    await expect.poll(() => page.getByRole('button', { name: 'Run on the server' }).isDisabled()).toBe(true);
  });
});
