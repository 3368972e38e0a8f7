import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

/** What the server is doing, in numbers only: no label holds anything that a client sent. */
export class ServeMetrics {
  readonly registry = new Registry();
  readonly requests = new Counter({
    name: 'int_flash_requests_total',
    help: 'Requests by route and outcome: a status (of a stream that failed, the one its error would have had), or aborted by the client.',
    labelNames: ['route', 'outcome'] as const,
    registers: [this.registry],
  });
  readonly promptTokens = this.#counter('int_flash_prompt_tokens_total', 'Tokens of prompts read.');
  readonly completionTokens = this.#counter('int_flash_completion_tokens_total', 'Tokens drawn.');
  readonly timeToFirstToken = new Histogram({
    name: 'int_flash_time_to_first_token_seconds',
    help: 'From the request to the first token of a choice, waiting included.',
    buckets: [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60],
    registers: [this.registry],
  });

  /** @param read Current values of gauges, asked for at each scrape. */
  gauges(read: Readonly<Record<string, { readonly help: string; readonly value: () => number }>>): void {
    for (const [name, { help, value }] of Object.entries(read)) {
      new Gauge({
        name: `int_flash_${name}`,
        help,
        registers: [this.registry],
        collect() {
          this.set(value());
        },
      });
    }
  }

  /** @param read Current values of counters that somebody else keeps. */
  totals(read: Readonly<Record<string, { readonly help: string; readonly value: () => number }>>): void {
    for (const [name, { help, value }] of Object.entries(read)) {
      new Counter({
        name: `int_flash_${name}_total`,
        help,
        registers: [this.registry],
        collect() {
          this.reset();
          this.inc(value());
        },
      });
    }
  }

  /** Memory, CPU and event-loop delay of the process; once a process. */
  addProcessMetrics(): void {
    collectDefaultMetrics({ register: this.registry });
  }

  #counter(name: string, help: string): Counter {
    return new Counter({ name, help, registers: [this.registry] });
  }
}
