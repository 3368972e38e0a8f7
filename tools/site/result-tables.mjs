// What the site says about accuracy, speed and reliability: tables and plots of what docs/results holds, made when the site is.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from '../process.mjs';
import { barPlot } from './bar-plot.mjs';

const RESULTS = 'docs/results';
/** onnxruntime's, the two that compute attention without a causal mask. */
const PEERS = ['ort-MultiHeadAttention', 'ort-Attention-23'];

const TABLES = {
  claims: () => {
    const rows = read('cpu/accuracy.jsonl', { bench: 'claim' });
    const verdict = (holds, text) => (text === null ? '–' : `${holds === null ? '–' : holds ? '✓' : '✗'} ${text}`);
    return table(
      ['claim', 'as published, measured here', 'ours', 'why'],
      rows.map(({ claim, source, reproduced, reproducedHolds, ours, oursHolds, why }) => [
        `${claim} (${source})`,
        verdict(reproducedHolds, reproduced),
        verdict(oursHolds, ours),
        why,
      ]),
      rows[0],
    );
  },
  'attention-error': () => errorTable('attention-error', 'relativeL2', { keys: 4096 }),
  'attention-error-plot': () => {
    const rows = read('cpu/accuracy.jsonl', { bench: 'attention-error', keys: 4096 });
    return barPlot({
      title: 'Relative L2 error against float64 attention',
      groups: ['normal', 'sharp', 'kbias', 'vout', 'sink'],
      series: ['full-int8', 'half-int8', 'paper-int8', 'fp8-e4m3'],
      value: (group, series) => find(rows, { distribution: group, variant: series })?.relativeL2,
    });
  },
  'attention-error-mre': () => errorTable('attention-error', 'mre', { keys: 4096 }),
  'paper-script-uniform': () => scriptTable('uniform'),
  'paper-script-centred': () => scriptTable('centred'),
  'paper-script-normal': () => scriptTable('normal'),
  'kv-cache-formats': () => {
    const rows = read('cpu/accuracy.jsonl', { bench: 'kv-cache-format' });
    const distributions = unique(rows, 'distribution');
    return table(
      ['format', 'bytes a token', ...distributions.map((name) => `error, ${name}`)],
      unique(rows, 'format').map((format) => [
        format,
        find(rows, { format }).bytesPerToken,
        ...distributions.map((distribution) => significant(find(rows, { format, distribution })?.attentionError)),
      ]),
      rows[0],
    );
  },
  'kv-cache-model': () => {
    const rows = read('cpu/accuracy.jsonl', { bench: 'kv-cache-model' });
    return table(
      ['text', 'attention', 'cache', 'perplexity', 'against fp16', 'cache of 1,024 tokens'],
      rows.map(({ text, attention, kvCacheDtype, perplexity, perplexityChange, cacheBytes }) => [
        `\`${text}\``,
        attention,
        kvCacheDtype,
        perplexity.toFixed(4),
        perplexityChange === undefined ? '' : `${(perplexityChange * 100).toFixed(3)}%`,
        `${(cacheBytes / 1e6).toFixed(2)} MB`,
      ]),
      rows[0],
    );
  },
  'kv-cache-fit': () => {
    const rows = read('cpu/accuracy.jsonl', { bench: 'kv-cache-fit' });
    return table(
      ['model', 'cache', 'tokens of each', 'sequences', 'of fp16', 'how'],
      rows.map(({ model, kvCacheDtype, tokens, sequences, timesFp16, how }) => [
        model,
        kvCacheDtype,
        tokens.toLocaleString('en-US'),
        Number.isInteger(sequences) ? sequences : sequences.toFixed(2),
        `${timesFp16.toFixed(2)}×`,
        how,
      ]),
      rows[0],
    );
  },
  'kv-cache-per-channel': () => {
    const rows = read('cpu/accuracy.jsonl', { bench: 'kv-cache-per-channel' });
    return table(
      ['inputs', 'dimensions', 'worst element', 'score error, unscaled', 'fp32 is larger by'],
      rows.map(({ distribution, dims, maxError, scoreError, smallerThanFp32 }) => [
        distribution,
        dims.toLocaleString('en-US'),
        maxError.toFixed(6),
        scoreError.toFixed(4),
        `${smallerThanFp32.toFixed(2)}×`,
      ]),
      rows[0],
    );
  },
  'cpu-prefill': () =>
    speedTable({ bench: 'prefill', causal: false }, ['full-int8', 'fp32', ...PEERS], 'ort-MultiHeadAttention', 'ms'),
  'cpu-decode': () =>
    speedTable({ bench: 'decode-cold' }, ['cache-int8', 'cache-int4', 'cache-fp32', ...PEERS], 'cache-fp32', 'ms'),
  'instruction-sets': () => {
    const [record] = read('cpu/isa-check.jsonl', { bench: 'isa-check' });
    const isMeant = ({ what, N, causal }) => what === 'prefill' && N === 2048 && !causal;
    const speeds = record.speeds.filter(isMeant);
    return table(
      ['instruction set', 'precision', ...unique(speeds, 'D').map((dim) => `head dimension ${dim}`)],
      record.isas.flatMap((isa) =>
        unique(speeds, 'precision').map((precision) => [
          isa,
          `\`${precision}\``,
          ...unique(speeds, 'D').map((D) => milliseconds(find(speeds, { isa, precision, D })?.ms)),
        ]),
      ),
      { ...record, threads: speeds[0]?.threads },
    );
  },
  'demo-model': () => {
    const rows = read('cpu/demo-model.jsonl', { bench: 'generate' });
    return table(
      ['backend', 'attention', 'cache', 'tokens a second', 'first token'],
      rows.map((row) => [
        `\`${row.backend}\``,
        row.attention,
        row.kvCacheDtype,
        row.tokensPerSecond.toFixed(1),
        `${row.timeToFirstTokenMs} ms`,
      ]),
      rows[0],
    );
  },
  'model-bench': () => {
    const rows = readSome(['cpu/model-bench.jsonl', 'h200/model-bench.jsonl']).flat();
    return table(
      ['model', 'backend', 'attention', 'cache', 'batch', 'prompt', 'pp t/s', 'tg t/s', 'ttft_ms'],
      rows.map((row) => [
        row.model,
        row.backend,
        row.attention,
        row.kv,
        row.batch,
        `${row.context} + ${row.newTokens}`,
        `${row.pp_ts.toFixed(0)} ± ${row.pp_ts_sd.toFixed(0)}`,
        `${row.tg_ts.toFixed(1)} ± ${row.tg_ts_sd.toFixed(1)}`,
        row.ttft_ms.toFixed(0),
      ]),
      rows[0],
    );
  },
  'llama-cpp': () => {
    const rows = read('cpu/llama-cpp.jsonl', { bench: 'llama-cpp' });
    return table(
      ['shapes of', 'read', 'llama.cpp', 'times', 'written', 'llama.cpp', 'times'],
      rows.map((row) => [
        row.model,
        ...['prefill', 'decode'].flatMap((what) => [
          row[`${what}TokensPerSecond`].toFixed(0),
          row[`${what}Peer`].toFixed(0),
          row[`${what}TimesPeer`].toFixed(2),
        ]),
      ]),
      rows[0],
      `tokens a second, of a prompt of ${rows[0].prompt} and after it`,
    );
  },
  'gpu-forward': () => {
    const rows = read('h200/attention-forward.jsonl', { bench: 'attention-forward' });
    const shapes = rows.filter(({ variant, entry }) => variant === 'full-int8' && entry === 'kernel');
    const whole = (tops) => (tops === undefined ? '–' : String(Math.round(tops)));
    return table(
      ['shape', 'full-int8', 'from bfloat16', 'half-int8', 'paper-int8', 'cuDNN bf16', 'relative L2'],
      shapes.map(({ B, H, Hkv, N, D, causal, ms, tops, relL2, peer }) => {
        const same = { B, H, Hkv, N, D, causal };
        const of = (variant, entry) => whole(find(rows, { ...same, variant, entry })?.tops);
        return [
          `B${B} H${H}${Hkv === H ? '' : `/${Hkv}`} N${N} D${D}${causal ? ', causal' : ''}`,
          whole(tops),
          of('full-int8', 'end-to-end'),
          of('half-int8', 'kernel'),
          of('paper-int8', 'kernel'),
          whole(peer['cudnn-bf16'] && (tops * ms) / peer['cudnn-bf16']),
          significant(relL2),
        ];
      }),
      rows[0],
      `TOPS on one ${rows[0].gpu}, 4·B·H·N²·D / time, half of that when causal; kernels alone but for the second column`,
    );
  },
  'gpu-quantize': () => {
    const rows = read('h200/quantize.jsonl', { bench: 'quantize' }).filter(({ dims }) => dims === undefined);
    const shapes = rows.filter(({ precision, kernel }) => precision === 'full-int8' && kernel === 'auto');
    const columns = [
      'full-int8 auto',
      'half-int8 auto',
      'full-int8 portable',
      'half-int8 portable',
      'paper-int8 portable',
    ];
    return table(
      ['shape', 'from', ...columns.map((column) => column.replace(' auto', ''))],
      shapes.map(({ batch, heads, kvHeads, tokens, headDim, type }) => [
        `B${batch} H${heads}${kvHeads === heads ? '' : `/${kvHeads}`} N${tokens} D${headDim}`,
        type,
        ...columns.map((column) => {
          const [precision, kernel] = column.split(' ');
          return (
            find(rows, { batch, heads, kvHeads, tokens, headDim, type, precision, kernel })?.share.toFixed(2) ?? '–'
          );
        }),
      ]),
      rows[0],
      `one ${rows[0].gpu}; above 1 where K and V are still in the GPU's cache when they are read again`,
    );
  },
  'gpu-decode': () => {
    const rows = read('h200/decode-attention.jsonl', { bench: 'decode-attention', split: 'runs' });
    const loads = rows.filter(({ cache }) => cache === 'int8');
    const cells = ({ bytes, ms, ofCopy }) => [
      `${(bytes / 1e6).toFixed(0)} MB`,
      `${(ms * 1e3).toFixed(1)} µs`,
      `${(100 * ofCopy).toFixed(0)}%`,
    ];
    return table(
      ['heads of', 'sequences', 'tokens', 'INT8 cache', 'time', 'of a copy', 'INT4 cache', 'time', 'of a copy'],
      loads.map((row) => {
        const { model, sequences, length } = row;
        return [
          model,
          sequences,
          length.toLocaleString('en-US'),
          ...cells(row),
          ...cells(find(rows, { model, sequences, length, cache: 'int4' })),
        ];
      }),
      rows[0],
      `one ${rows[0].gpu}; part of what a copy within the device moves, reads and writes counted`,
    );
  },
  'gpu-decoder': () => {
    const rows = read('h200/decoder.jsonl', { bench: 'decoder' });
    const whole = (rate) => (rate === undefined ? '' : Math.round(rate).toLocaleString('en-US'));
    return table(
      [
        '',
        'shapes of',
        'weights',
        'cache',
        'behind',
        'prompt',
        'sequences',
        'tokens/s read',
        'tokens/s written',
        'of the limit',
        'first token',
      ],
      rows.map(({ peer, model, weights, cache, context, batch, prompt, read, tg128, limit, ttft_ms }) => [
        peer ?? 'int-flash',
        model,
        weights,
        cache,
        context.toLocaleString('en-US'),
        prompt ?? '',
        batch ?? '',
        whole(read),
        whole(tg128),
        limit === undefined ? '' : `${Math.round(100 * limit)}%`,
        ttft_ms === undefined ? '' : milliseconds(ttft_ms),
      ]),
      rows[0],
      `random weights, one ${rows[0].gpu}; behind so many tokens; the first token of a prompt of as many; the limit: weights and cache read once a token as fast as a copy within the device moves bytes`,
    );
  },
  'gpu-peers': () => {
    const rows = read('h200/peers.jsonl', { bench: 'peer-attention' });
    const peers = unique(rows, 'peer');
    const shapes = rows.filter(({ peer }) => peer === rows[0].peer);
    return table(
      ['shape', ...peers],
      shapes.map(({ batch, heads, keys, headDim, causal }) => [
        `B${batch} H${heads} N${keys} D${headDim}${causal ? ', causal' : ''}`,
        ...peers.map((peer) => find(rows, { batch, heads, keys, headDim, causal, peer })?.tops ?? '–'),
      ]),
      rows[0],
      'TOPS: 4·B·H·N²·D / time, half of that when causal',
    );
  },
  'gpu-peers-error': () => {
    const rows = read('h200/peers.jsonl', { bench: 'peer-error' });
    return table(
      ['implementation', 'head dimension', 'relative L2'],
      rows.map(({ peer, headDim, relativeL2 }) => [peer, headDim, relativeL2 ?? '–']),
      rows[0],
      `${rows[0].inputs} inputs, ${rows[0].keys} keys`,
    );
  },
  'gpu-tests': () => {
    const { passed, failed, cases, gpu, driver } = JSON.parse(
      readFileSync(join(root, RESULTS, 'h200/gpu-tests.json'), 'utf8'),
    );
    return `${passed} tests passed and ${failed} failed on one ${gpu} (driver ${driver}), among them ${cases.toLocaleString('en-US')} forward cases.`;
  },
  /** A whole report, below its title: its sections become parts of the one that shows it. */
  'gpu-reproduce': () => {
    const report = readFileSync(join(root, RESULTS, 'h200/reproduce/report.md'), 'utf8');
    const start = report.search(/^## /m);
    if (start < 0) throw new Error(`Expected ${RESULTS}/h200/reproduce/report.md to have sections`);
    return report.slice(start).trimEnd().replace(/^#+ /gm, '#$&');
  },
  /** On each machine that was asked. */
  determinism: () => {
    const machines = readSome(['cpu/determinism.jsonl', 'h200/determinism.jsonl']);
    const rows = machines.flat().sort((one, other) => one.determinism.localeCompare(other.determinism));
    return table(
      ['', 'compared', ...machines.map(([{ gpu, cpu, backend }]) => `${gpu ?? cpu}, \`${backend}\``)],
      unique(rows, 'what').map((what) => [
        find(rows, { what }).determinism,
        what,
        ...machines.map((found) => {
          const row = find(found, { what });
          return row && `${row.value} of ${row.of}`;
        }),
      ]),
      { commit: unique(machines.flat(), 'commit').join(', ') },
    );
  },
  soak: () => {
    const rows = read('cpu/soak.jsonl', {});
    return table(
      ['piece', 'what', 'measured', 'promised', ''],
      rows.map(({ soak, what, value, unit, bound }) => [
        soak,
        what,
        `${value} ${unit}`,
        bound === undefined ? '' : `at most ${bound}`,
        bound === undefined ? '' : value <= bound ? '✓' : '✗',
      ]),
      rows[0],
    );
  },
};

/** @returns {string} Markdown */
export function resultTables(name) {
  if (!Object.hasOwn(TABLES, name))
    throw new Error(`Expected a table among ${Object.keys(TABLES).join(', ')}; got ${name}`);
  return TABLES[name]();
}

function errorTable(bench, field, where) {
  const rows = read('cpu/accuracy.jsonl', { bench, ...where });
  const distributions = unique(rows, 'distribution');
  return table(
    ['way to compute', ...distributions],
    unique(rows, 'variant').map((variant) => [
      `\`${variant}\``,
      ...distributions.map((distribution) => significant(find(rows, { variant, distribution })?.[field])),
    ]),
    rows[0],
    `${rows[0].keys} keys, head dimension ${rows[0].headDim}, means of ${rows[0].seeds} seeds`,
  );
}

function scriptTable(distribution) {
  const rows = read('cpu/accuracy.jsonl', { bench: 'attention-error-script', distribution });
  const variants = unique(rows, 'variant');
  return table(
    ['keys', ...variants.map((name) => `\`${name}\``)],
    unique(rows, 'keys').map((keys) => [
      keys,
      ...variants.map((variant) => {
        const { mre, mreLastFour } = find(rows, { keys, variant });
        const [least, largest] = mreLastFour.map((ratio) => (ratio * 100).toPrecision(2));
        return `${(mre * 100).toPrecision(3)}% (${least} to ${largest}%)`;
      }),
    ]),
    rows[0],
    `mean relative error over all elements (over the last four), head dimension ${rows[0].headDim}, scale ${rows[0].scale}, means of ${rows[0].seeds} seeds`,
  );
}

/** Of the newest commit that was measured. `ms` names the time to show. */
function speedTable(where, variants, baseline, ms) {
  const all = read('cpu/attention.jsonl', where);
  const rows = all.filter(({ commit }) => commit === all.at(-1).commit);
  const [ours] = variants;
  return table(
    ['keys', 'head dimension', ...variants.map((name) => `\`${name}\``), `\`${ours}\` against \`${baseline}\``],
    unique(rows, 'N').flatMap((N) =>
      unique(rows, 'D').map((D) => {
        const time = (variant) => find(rows, { N, D, variant })[ms];
        return [
          N,
          D,
          ...variants.map((variant) => milliseconds(time(variant))),
          `${(time(baseline) / time(ours)).toFixed(2)}×`,
        ];
      }),
    ),
    rows[0],
    `one sequence of ${rows[0].H} heads, float32 in and out`,
  );
}

function read(file, where) {
  const path = join(root, RESULTS, file);
  if (!existsSync(path)) throw new Error(`Expected ${RESULTS}/${file}, which the site shows`);
  const rows = readFileSync(path, 'utf8')
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line))
    .filter((row) => matches(row, where));
  if (rows.length === 0) throw new Error(`Expected ${RESULTS}/${file} to hold ${JSON.stringify(where)}`);
  return rows;
}

/** Lines of each of these files that there is. */
function readSome(files) {
  return files.filter((file) => existsSync(join(root, RESULTS, file))).map((file) => read(file, {}));
}

function matches(row, where) {
  return Object.entries(where).every(([key, value]) => row[key] === value);
}

function find(rows, where) {
  return rows.find((row) => matches(row, where));
}

function unique(rows, key) {
  return [...new Set(rows.map((row) => row[key]))];
}

/** A table, and below it what it was measured on. */
function table(head, rows, { cpu, gpu, threads, cores, backend, node, commit }, more) {
  const lines = [head, head.map(() => '---'), ...rows].map(
    (cells) => `| ${cells.map((cell) => cell ?? '–').join(' | ')} |`,
  );
  const counted = (count, noun) => count && `${count} ${noun}${count === 1 ? '' : 's'}`;
  const conditions = [
    more,
    gpu ?? cpu,
    counted(threads, 'thread'),
    counted(cores, 'core'),
    backend && `backend ${backend}`,
    node && `Node ${node}`,
    commit && `commit ${commit}`,
  ];
  return `${lines.join('\n')}\n\n*Measured: ${conditions.filter(Boolean).join('; ')}.*`;
}

function significant(value) {
  if (value === undefined) return undefined;
  return value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(1) : value.toPrecision(3);
}

function milliseconds(ms) {
  return ms === undefined ? undefined : `${ms.toPrecision(3)} ms`;
}
