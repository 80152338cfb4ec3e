#!/usr/bin/env node
import v8 from 'node:v8';
import { runCli } from './cli/cli.ts';
import { CliContext, type StopSignal } from './cli/context.ts';
import { describeFailure } from './cli/failure.ts';

// A stream makes garbage without end, and V8 would rather let the heap grow than collect it. Growing it to twice its size at
// most saves memory (--optimize-for-size saves more, but spends a quarter of the CPU on it), and 25 MB more where the youngest
// objects keep the room that loading has taken (8 MB), instead of twice that. Neither costs anything measurable.
v8.setFlagsFromString('--heap-growing-percent=100');
v8.setFlagsFromString('--semi-space-growth-factor=1');

const context = new CliContext({
  stdout: process.stdout,
  stderr: process.stderr,
  // Opened by whoever reads from it, and by nobody else.
  get stdin() {
    return process.stdin;
  },
  env: process.env,
  cwd: process.cwd(),
});

for (const name of ['SIGINT', 'SIGTERM'] satisfies StopSignal[]) {
  process.on(name, () => {
    const code = context.interrupt(name);
    if (code !== null) process.exit(code);
  });
}
// A reader that has seen enough (`| head`) is no error; nothing more can be told to anyone.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));
process.stderr.on('error', () => {});
// What nobody caught is still told in one line, and never leaves a half-dead process behind.
process.on('uncaughtException', (error) => {
  context.note(describeFailure(error, process.argv.includes('debug')).text);
  process.exit(1);
});

const code = await runCli(process.argv.slice(2), context);
// Not left to the event loop: a connection that hangs must not keep a finished command.
process.stdout.write('', () => process.exit(code));
