import { ask, CHAT } from '../test/serve-harness.js';
import type { Finding } from './record.js';
import { startCommandServer } from './server-process.js';

const COMPLETIONS = 1000;
const MOST_AT_ONCE = 32;

/** D4: one text at temperature 0, and one for a seed at temperature 1, however many others run beside it. */
export async function determinism(): Promise<Finding[]> {
  const server = await startCommandServer();
  const findings: Finding[] = [];
  for (const sampling of [{ temperature: 0 }, { temperature: 1, seed: 12 }]) {
    const texts = new Set<string>();
    const body = {
      messages: [{ role: 'user', content: 'Tell me a story about a king and a bird.' }],
      max_tokens: 12,
      ignore_eos: true,
      ...sampling,
    };
    for (let done = 0; done < COMPLETIONS; ) {
      const count = Math.min(1 + Math.floor(Math.random() * MOST_AT_ONCE), COMPLETIONS - done);
      const replies = await Promise.all(
        Array.from({ length: count }, async () => {
          await new Promise((resolve) => setTimeout(resolve, Math.random() * 20));
          return ask(server, CHAT, { body });
        }),
      );
      for (const reply of replies) texts.add(reply.json().choices[0].message.content);
      done += count;
    }
    const how = sampling.temperature === 0 ? 'temperature 0' : 'temperature 1 with a seed';
    findings.push({ what: `distinct texts of ${COMPLETIONS}, ${how}`, value: texts.size, unit: 'texts', bound: 1 });
  }
  await server.stop();
  return findings;
}
