#!/usr/bin/env node
import { main } from './program.js';
import { llmRuntime } from './runtime-llm.js';
import { Terminal } from './terminal.js';

const terminal = new Terminal(process, process.env);
const exitCode = await main(process.argv.slice(2), { terminal, runtime: llmRuntime, env: process.env });
process.exitCode = exitCode;
