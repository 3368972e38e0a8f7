#!/usr/bin/env node
import { Command } from 'commander';

const program = new Command('int-flash').description('INT8 FlashAttention for Node');
program
  .command('demo')
  .description('not written yet')
  .allowUnknownOption()
  .allowExcessArguments()
  .action(() => {});
await program.parseAsync();
