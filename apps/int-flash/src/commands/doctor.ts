import type { Command } from 'commander';
import type { App } from '../app.js';
import { type DoctorReport, doctorReport } from '../doctor-report.js';
import { type OutputOptions, withOutputOptions } from '../options.js';
import { labelled, rule } from '../screen.js';
import { type Paint, withoutControls } from '../terminal.js';
import { formatBytes } from '../units.js';

export function addDoctor(program: Command, app: App): void {
  const command = program
    .command('doctor')
    .description('what this machine has, which backends run here and why: what a bug report needs');
  withOutputOptions(command).action(async (options: OutputOptions) => {
    const report = await doctorReport(app.runtime, app.env);
    const { columns, paint } = app.terminal;
    await app.terminal.write(
      options.json ? `${JSON.stringify(report, null, 2)}\n` : doctorScreen(report, columns, paint),
    );
  });
}

function doctorScreen(report: DoctorReport, columns: number, paint: Paint): string {
  const row = (label: string, text: string) => labelled(label, withoutControls(text), columns, paint);
  const { os, cpu, memory, gpu } = report;
  const lines = [
    rule('machine', columns, paint),
    row(
      'versions',
      Object.entries(report.versions)
        .map(([name, version]) => `${name} ${version}`)
        .join(', '),
    ),
    row('system', [`${os.platform} ${os.release}`, os.arch, os.libc].filter(Boolean).join(', ')),
    row('processor', `${cpu.model}, ${cpu.logicalCores} logical cores`),
    row('features', cpu.features.join(' ') || 'not told by this system'),
    row(
      'memory',
      `${formatBytes(memory.totalBytes)}, ${formatBytes(memory.freeBytes)} free${memory.limitBytes === null ? '' : `, limited to ${formatBytes(memory.limitBytes)}`}`,
    ),
    row('gpu', gpu.devices.length > 0 ? `${gpu.devices.join(', ')}; driver ${gpu.driver ?? 'unknown'}` : 'none found'),
    rule('backends', columns, paint),
  ];
  for (const { name, available, detail, hint } of report.backends) {
    const [mark, color] = available ? ['✓', paint.green] : ['–', paint.yellow];
    const text = available || !hint ? detail : `${detail.replace(/\.$/, '')}. ${hint}`;
    lines.push(row(name, `${mark} ${text}`).replace(mark, color(mark)));
  }
  lines.push(
    row('kernels', report.supportedIsas.join(', ') || 'none'),
    row('addons', report.addons.join(', ') || 'none loaded'),
    row('auto', `${report.auto.name ?? 'none'}. ${report.auto.why}`),
    row(
      'environment',
      Object.entries(report.environment)
        .map(([name, value]) => `${name}=${value}`)
        .join(', ') || 'nothing of this project is set',
    ),
    row('demo model', report.demoModel ?? 'not found; name one with --model <path>'),
    '',
  );
  return lines.join('\n');
}
