import { tmpdir } from 'node:os';
import type { Command } from 'commander';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { durationMs, patternList, positiveInteger } from '../../src/cli/arguments.ts';
import { createProgram } from '../../src/cli/cli.ts';
import { CliContext, type Output } from '../../src/cli/context.ts';
import { describeFailure } from '../../src/cli/failure.ts';
import { WaltideError } from '../../src/errors.ts';
import { VERSION } from '../../src/version.ts';
import { cli, makeProject } from './support.ts';

let project: Awaited<ReturnType<typeof makeProject>>;
beforeAll(async () => {
  // Port 1 of loopback refuses at once.
  project = await makeProject({
    source: { url: 'postgres://u:p@127.0.0.1:1/db', tables: ['public.*'], connectTimeoutMs: 2000 },
    sinks: [{ name: 'analytics', type: 'duckdb', path: 'a.duckdb' }],
  });
});
afterAll(() => project.remove());

const silent: Output = { write: () => true, once: () => undefined };

describe('help', () => {
  test('every command has examples', async () => {
    const program = await createProgram(new CliContext({ stdout: silent, stderr: silent, env: {}, cwd: '/' }));
    const without: string[] = [];
    const visit = (command: Command): void => {
      let text = '';
      command.configureOutput({
        writeOut: (part) => {
          text += part;
        },
      });
      command.outputHelp();
      if (!text.includes('Examples:')) without.push(command.name());
      command.commands.forEach(visit);
    };
    visit(program);
    expect(without).toEqual([]);
  });

  test('one command alone is the same as among all', async () => {
    const context = new CliContext({ stdout: silent, stderr: silent, env: {}, cwd: '/' });
    const all = await createProgram(context);
    expect(all.commands.length).toBeGreaterThan(20);
    for (const command of all.commands) {
      const { commands } = await createProgram(context, command.name());
      expect(commands.map((one) => one.helpInformation())).toEqual([command.helpInformation()]);
    }
    expect((await createProgram(context, '--json')).commands).toHaveLength(all.commands.length);
  });

  test('documents exit codes, goes to stdout, exits with 0', async () => {
    for (const argv of [['--help'], ['help'], ['run', '--help'], ['help', 'slot']]) {
      const outcome = await cli(tmpdir(), ...argv);
      expect(outcome.code, argv.join(' ')).toBe(0);
      expect(outcome.stdout).toContain('Usage: waltide');
      expect(outcome.stderr).toBe('');
    }
    expect((await cli(tmpdir(), '--help')).stdout).toMatch(/Exit codes:[\s\S]*130/);
  });

  test('version', async () => {
    expect(await cli(tmpdir(), '--version')).toEqual({ code: 0, stdout: `${VERSION}\n`, stderr: '' });
  });
});

describe('wrong usage exits with 2 and says what is wrong', () => {
  test.each([
    [['runn'], /unknown command 'runn'[\s\S]*run/],
    [['run', '--rolle', 'all'], /unknown option '--rolle'/],
    [['run', '--role', 'both'], /Allowed choices are all, capture, apply/],
    [['run', '--role', 'capture'], /transport\.type kafka/],
    [['tail', '--limit', '0'], /whole number from 1/],
    [['tail', '--limit', '1e3'], /whole number from 1/],
    [['tail', '--format', 'xml'], /json, debezium, pretty/],
    [['query'], /missing required argument 'sql'/],
    [['query', 'select 1', '--timeout', '5 parsecs'], /30s or 2m/],
    [['query', 'select 1', '--limit', '99999999'], /at most 1000000/],
    [['query', 'select 1', '--sink', 'other'], /there is no sink "other"/],
    [['slot'], /Usage: waltide slot/],
    [['slot', 'drop'], /missing required argument 'name'/],
    [['--log-level', 'loud', 'run'], /Allowed choices/],
    [['status', 'now'], /too many arguments/],
  ])('%s', async (argv, message) => {
    const outcome = await cli(project.dir, ...argv);
    expect(outcome.stderr).toMatch(message);
    expect(outcome).toMatchObject({ code: 2, stdout: '' });
  });

  test('no configuration', async () => {
    const outcome = await cli('/nonexistent', 'status');
    expect(outcome).toMatchObject({ code: 2, stdout: '' });
    expect(outcome.stderr).toMatch(/^error: .*\n.*waltide\.yaml[\s\S]*\nwhat to do: /);
  });

  test('--json tells it on stdout too', async () => {
    const outcome = await cli('/nonexistent', 'status', '--json');
    expect(JSON.parse(outcome.stdout)).toMatchObject({ ok: false, error: { code: 'CONFIG_INVALID', faults: [{}] } });
    expect(JSON.parse((await cli(project.dir, 'tail', '--limit', 'x', '--json')).stdout)).toMatchObject({
      error: { code: 'USAGE' },
    });
  });
});

test('global options stand before or after the command', async () => {
  for (const argv of [
    ['--config', 'nope.yaml', 'run'],
    ['run', '--config', 'nope.yaml'],
  ])
    expect((await cli(project.dir, ...argv)).stderr).toContain('nope.yaml does not exist');
});

describe('an unreachable server', () => {
  test.each([[['run']], [['setup']], [['tail']], [['slot', 'list']], [['publication', 'show']]])(
    '%s exits with 1, without a stack',
    async (argv) => {
      const outcome = await cli(project.dir, ...argv);
      expect(outcome.code).toBe(1);
      expect(outcome.stderr).toMatch(
        /^error: PostgreSQL at 127\.0\.0\.1:1\/db cannot be reached: .*\nwhat to do: .*\n$/,
      );
    },
  );

  test('the password is nowhere', async () => {
    const secret = await makeProject({ source: { url: 'postgres://u:hunter2@127.0.0.1:1/db', tables: ['x'] } });
    for (const argv of [['run'], ['doctor'], ['status', '--json']]) {
      const { stdout, stderr } = await cli(secret.dir, ...argv, '--log-level', 'debug');
      expect(stdout + stderr).not.toContain('hunter2');
    }
    await secret.remove();
  });
});

describe('nothing runs', () => {
  test('status says so, asks PostgreSQL, and exits with 1', async () => {
    const outcome = await cli(project.dir, 'status');
    expect(outcome.code).toBe(1);
    expect(outcome.stdout).toMatch(/not running: [\s\S]*waltide run[\s\S]*PostgreSQL cannot be asked/);
    expect(JSON.parse((await cli(project.dir, 'status', '--json')).stdout)).toMatchObject({
      running: false,
      processes: [],
      slot: null,
    });
  });

  test('query says that there is nothing to ask yet, with the remedy', async () => {
    const sinks = await makeProject({
      source: { url: 'postgres://u@127.0.0.1:1/db', tables: ['x'] },
      sinks: [{ name: 'analytics', type: 'duckdb', path: 'a.duckdb' }],
    });
    const outcome = await cli(sinks.dir, 'query', 'select 1');
    expect(outcome.code).toBe(1);
    expect(outcome.stderr).toMatch(/there is no file [\s\S]*waltide run/);
    const wrong = await cli(sinks.dir, 'query', 'select 1', '--sink', 'analytic');
    expect(wrong.code).toBe(2);
    expect(wrong.stderr).toContain('did you mean "analytics"?');
    await sinks.remove();
  });
});

describe('failures', () => {
  test('a stack only when asked for', () => {
    const cause = new Error('inner');
    const error = new WaltideError('SINK', 'outer', 'Mend it.', { cause });
    expect(describeFailure(error, false)).toMatchObject({ exitCode: 1, text: 'error: outer\nwhat to do: Mend it.' });
    expect(describeFailure(error, true).text).toMatch(/outer[\s\S]*at [\s\S]*inner[\s\S]*at /);
  });

  test('no stack for what a user got wrong, but what the server said', () => {
    const error = new WaltideError('SOURCE_AUTHENTICATION', 'refused', 'Check it.', { cause: new Error('inner') });
    expect(describeFailure(error, true).text).toBe('error: refused\nwhat to do: Check it.\ncause: inner');
  });

  test('what is none of ours is a fault of ours', () => {
    expect(describeFailure(new TypeError('x is not a function'), false).text).toMatch(
      /^error: x is not a function\nwhat to do: .*report/,
    );
    expect(describeFailure(undefined, false).text).toContain('error: undefined');
  });
});

test('a signal ends most commands at once, and lets one that drains end by itself', async () => {
  const make = (): CliContext => new CliContext({ stdout: silent, stderr: silent, env: {}, cwd: '/' });
  expect(make().interrupt('SIGINT')).toBe(130);
  expect(make().interrupt('SIGTERM')).toBe(143);
  const draining = make();
  draining.drains = true;
  expect(draining.interrupt('SIGINT')).toBeNull();
  expect(draining.signal.aborted).toBe(true);
  expect(draining.interruptedCode).toBe(130);
  // The same keystroke once more, passed on by npm; then a real second one.
  expect(draining.interrupt('SIGINT')).toBeNull();
  await new Promise((wake) => setTimeout(wake, 350));
  expect(draining.interrupt('SIGTERM')).toBe(143);
});

test('arguments', () => {
  expect(['500ms', '30s', '2m', '2 min', '1h', '1.5', '7'].map(durationMs)).toEqual([
    500, 30_000, 120_000, 120_000, 3_600_000, 1500, 7000,
  ]);
  for (const text of ['', '0', '-1s', '1d', 's', '25h', 'NaN']) expect(() => durationMs(text), text).toThrow();
  expect(positiveInteger('42')).toBe(42);
  for (const text of ['', '0', '-1', '1.5', '0x10', '99999999999999999999'])
    expect(() => positiveInteger(text), text).toThrow();
  expect(patternList('a.b, c', ['z'])).toEqual(['z', 'a.b', 'c']);
});
