// S11, in a real browser: texts that would run a script or send something away, changed at random, said by user and model, and torn
// into events at random places. Prints what it found as JSON for `npm run soak`, whose piece `page` this is.
import { ask, launchBrowser, openPage } from '../test/browser';
import { LEAKING_STRINGS, SCRIPT_STRINGS } from '../test/hostile-strings';
import { PageServer } from '../test/page-server';

const MESSAGES = 500;
const A_CONVERSATION = 25; // a long one is drawn slowly
const SEED = Date.now() % 2 ** 31;

let state = SEED;
/** A number below `end`: the same ones for the same seed, which is printed. */
function random(end: number): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * end);
}

function anyOf<T>(values: readonly T[]): T {
  return values[random(values.length)]!;
}

const STRINGS = [...SCRIPT_STRINGS, ...LEAKING_STRINGS];
const WRAPPERS: readonly ((text: string) => string)[] = [
  (text) => text,
  (text) => `**${text}**`,
  (text) => `# ${text}`,
  (text) => `- ${text}\n  - ${text}`,
  (text) => `> ${text}\n\n${text}`,
  (text) => `[${text}](${text})`,
  (text) => `![${text}](${text})`,
  (text) => `[${text}][1]\n\n[1]: ${text}`,
  (text) => `<${text}>`,
  (text) => `\`${text}\``,
  (text) => `\`\`\`${text}\n${text}\n\`\`\``,
  (text) => `| ${text} | b |\n|---|---|\n| ${text} | c |`,
  (text) => `<div>${text}</div>`,
  (text) => `<!-- ${text}`,
  (text) => `\\${text}`,
  (text) => text.replaceAll('<', '&lt;'),
  (text) => text.replaceAll('alert', 'ale\u0000rt'),
  (text) => [...text].map((char) => (random(4) === 0 ? `${char}\u200b` : char)).join(''),
  (text) => [...text].map((char) => (random(3) === 0 ? char.toUpperCase() : char)).join(''),
];

function hostile(): string {
  let text = anyOf(STRINGS);
  for (let i = random(3); i > 0; i--) text = anyOf(WRAPPERS)(text);
  if (random(3) === 0) text += anyOf(STRINGS);
  if (random(5) === 0) text = text.slice(0, random(text.length) + 1); // cut off, as an answer can be
  return text;
}

function torn(text: string): string[] {
  const pieces: string[] = [];
  for (let at = 0; at < text.length; ) {
    const end = at + 1 + random(12);
    pieces.push(text.slice(at, end));
    at = end;
  }
  return pieces;
}

process.stderr.write(`  seed ${SEED}\n`);
const [server, browser] = await Promise.all([PageServer.start(), launchBrowser()]);
server.settings.pauseMs = 0;
let [outside, ran, handlers, links, answered] = [0, 0, 0, 0, 0];
for (let said = 0; said < MESSAGES; said += A_CONVERSATION) {
  const { page, context, trespasses } = await openPage(browser, server.url);
  for (let i = 0; i < A_CONVERSATION; i++) {
    const text = hostile();
    server.settings.answer = torn(hostile());
    await ask(page, text.trim() === '' ? 'x' : text);
  }
  answered += await page.locator('article[data-state=done]').count();
  outside += trespasses.outside.length;
  ran += trespasses.events.length + trespasses.violations.length;
  handlers += await page
    .locator('.markdown *, .said *')
    .evaluateAll(
      (all) =>
        all.filter(
          (element) =>
            element.getAttributeNames().some((name) => /^(on|style$|srcdoc$)/.test(name)) ||
            /^(script|iframe|object|embed|img|link|meta|base|form|style)$/.test(element.localName),
        ).length,
    );
  links += await page
    .locator('.markdown a, .said a')
    .evaluateAll((all) => all.filter((a) => !/^(https?:\/\/|mailto:)/.test(a.getAttribute('href') ?? '')).length);
  await context.close();
}
await browser.close();
await server.stop();
const findings = [
  {
    what: `of ${MESSAGES} hostile texts, without a whole answer`,
    value: MESSAGES - answered,
    unit: 'answers',
    bound: 0,
  },
  { what: 'scripts run or stopped by the policy, dialogs, windows, exceptions', value: ran, unit: 'events', bound: 0 },
  { what: 'requests to others than the server', value: outside, unit: 'requests', bound: 0 },
  { what: 'elements that run, load or send something', value: handlers, unit: 'elements', bound: 0 },
  { what: 'links to other than http, https and mailto', value: links, unit: 'links', bound: 0 },
];
process.stdout.write(JSON.stringify(findings));
