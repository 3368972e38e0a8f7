import { Command } from 'commander';
import type { App } from './app.js';
import { addBench } from './commands/bench.js';
import { addChat } from './commands/chat.js';
import { addDemo } from './commands/demo.js';
import { addDoctor } from './commands/doctor.js';
import { addGenerate } from './commands/generate.js';
import { addInspect } from './commands/inspect.js';
import { addPerplexity } from './commands/perplexity.js';
import { addQuantize } from './commands/quantize.js';
import { addReproduce } from './commands/reproduce.js';
import { addServe } from './commands/serve.js';
import { EXIT, fateOfOutput, reportFailure } from './failures.js';
import { VERSION } from './version.js';

/** Runs one command line and returns the exit code; never throws. @param args without node and the script */
export async function main(args: readonly string[], app: App): Promise<number> {
  const { terminal, env } = app;
  const report = (error: unknown) => reportFailure(error, terminal, env);
  try {
    await createProgram(app).parseAsync(args, { from: 'user' });
  } catch (error) {
    const code = report(error);
    if (code !== EXIT.ok) return code;
  }
  await terminal.flushed();
  return terminal.closed.aborted ? report(fateOfOutput(terminal.closed.reason)) : EXIT.ok;
}

function createProgram(app: App): Command {
  const { terminal } = app;
  const program = new Command('int-flash')
    .description('Language models on INT8 attention, for Node')
    .version(VERSION)
    .helpCommand(false)
    .configureOutput({
      writeOut: (text) => void terminal.write(text),
      writeErr: () => {}, // reportFailure says it, in one line
      getOutHelpWidth: () => terminal.columns,
    })
    .exitOverride() // before the subcommands, which inherit it
    .addHelpText('after', '\nExit codes: 0 done, 1 failed, 2 command line not understood, 130 Ctrl-C, 143 SIGTERM.');
  for (const add of [
    addDemo,
    addGenerate,
    addChat,
    addServe,
    addPerplexity,
    addInspect,
    addQuantize,
    addReproduce,
    addBench,
    addDoctor,
  ])
    add(program, app);
  return program;
}
