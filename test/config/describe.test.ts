import { Ajv2020 } from 'ajv/dist/2020.js';
import { Command } from 'commander';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { configCommand } from '../../src/cli/commands/config.ts';
import { nearest } from '../../src/config/faults.ts';
import { defineConfig, resolveConfig } from '../../src/config/load.ts';
import { maskedConfig } from '../../src/config/mask.ts';
import { configJsonSchema } from '../../src/config/shape.ts';
import { maskedUrl } from '../../src/masked-url.ts';

const INPUT = defineConfig({
  source: { url: 'postgres://user:s3cret@host/db?sslpassword=s3cret&application_name=x', tables: ['public.*'] },
  transport: {
    type: 'kafka',
    brokers: ['a:1'],
    topicPrefix: 't',
    sasl: { mechanism: 'plain', username: 'u', password: 's3cret' },
  },
  sinks: [{ name: 'a', type: 'duckdb', path: 'a.duckdb' }],
});

describe('the JSON Schema', () => {
  const schema = configJsonSchema();
  const validate = new Ajv2020({ strict: true, strictTypes: false, allErrors: true }).compile(schema);

  it('is draft 2020-12, strict, and accepts what we accept', () => {
    expect(schema.$schema).toBe('https://json-schema.org/draft/2020-12/schema');
    expect(validate(INPUT), JSON.stringify(validate.errors)).toBe(true);
    expect(validate({ ...INPUT, sorce: 1 })).toBe(false);
    expect(validate({ ...INPUT, metrics: { port: 'x' } })).toBe(false);
  });

  it('accepts ${VAR} where a number, boolean or list is expected', () => {
    const variable = '${X}';
    expect(
      validate({
        ...INPUT,
        source: { ...INPUT.source, tables: variable },
        metrics: { port: variable, enabled: variable },
      }),
      JSON.stringify(validate.errors),
    ).toBe(true);
  });

  it('describes every key with its variable, and keeps our marks to itself', () => {
    const text = JSON.stringify(schema);
    expect(text).toContain('Environment: WALTIDE_TRANSPORT_SASL_PASSWORD.');
    expect(text).toContain('Environment: WALTIDE_SINKS_<n>_BATCH_LINGER_MS.');
    expect(text).not.toContain('"kind"');
  });
});

describe('masking', () => {
  it('leaves no password anywhere', () => {
    const masked = maskedConfig(resolveConfig(INPUT));
    expect(JSON.stringify(masked)).not.toContain('s3cret');
    expect(masked.source.url).toBe('postgres://user:***@host/db?sslpassword=***&application_name=x');
    expect(masked.transport).toMatchObject({ sasl: { username: 'u', password: '***' } });
  });

  it.each([
    ['postgres://host/db', 'postgres://host/db'],
    ['postgres://u@host/db', 'postgres://u@host/db'],
    ['postgres://u:p@ss:w@host/db', 'postgres://u:***@host/db'],
    ['postgres://u:p/w#x@host:x/db', 'postgres://u:***@host:x/db'],
    ['postgres:///db?user=u&password=p%20x', 'postgres:///db?user=u&password=***'],
  ])('%s', (url, expected) => {
    expect(maskedUrl(url)).toBe(expected);
  });
});

describe('nearest', () => {
  it.each([
    ['sorce', ['source', 'sinks'], 'source'],
    ['SLOT', ['slot'], 'slot'],
    ['heartbeatInterval', ['heartbeatIntervalMs', 'slotWaitMs'], 'heartbeatIntervalMs'],
    ['banana', ['source', 'sinks'], undefined],
  ])('%s', (word, candidates, expected) => {
    expect(nearest(word, candidates)).toBe(expected);
  });
});

describe('waltide config', () => {
  afterEach(() => {
    vi.restoreAllMocks();
    vi.unstubAllEnvs();
  });

  async function run(...args: string[]): Promise<string> {
    let out = '';
    vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
      out += String(text);
      return true;
    });
    const program = new Command('waltide').option('--config <file>').option('--json').exitOverride();
    await program.addCommand(configCommand()).parseAsync(['config', ...args], { from: 'user' });
    return out;
  }

  it('prints what is in force, masked', async () => {
    vi.stubEnv('WALTIDE_SOURCE_URL', 'postgres://u:s3cret@h/d');
    vi.stubEnv('WALTIDE_SOURCE_TABLES', 'a.b');
    expect(await run('print')).toMatch(/^source:\n {2}url: postgres:\/\/u:\*\*\*@h\/d\n/);
    expect(JSON.parse(await run('print', '--json'))).toMatchObject({ source: { url: 'postgres://u:***@h/d' } });
    expect(await run('check')).toBe('the environment: no faults\n');
  });

  it('leaves every fault to the command line, which prints them as text or JSON', async () => {
    vi.stubEnv('WALTIDE_SOURCE_URL', 'x');
    await expect(run('check')).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      faults: [{ path: 'source.tables' }, { path: 'source.url', variable: 'WALTIDE_SOURCE_URL' }],
    });
  });

  it('prints the schema, and the variables', async () => {
    expect(JSON.parse(await run('schema'))).toMatchObject({ title: 'Waltide configuration' });
    expect(await run('schema', '--variables')).toMatch(/^WALTIDE_SOURCE_URL +source\.url$/m);
  });
});
