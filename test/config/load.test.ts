import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ConfigError, formatFault } from '../../src/config/faults.ts';
import { loadConfig, resolveConfig } from '../../src/config/load.ts';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'waltide-config-'));
});
afterEach(() => rm(dir, { recursive: true }));

const LEAST = `source:
  url: postgres://user:pass@host:5432/db
  tables: ["public.*"]
sinks:
  - { name: analytics, type: duckdb, path: ./analytics.duckdb }
`;

async function load(text: string | null, env: NodeJS.ProcessEnv = {}, name = 'waltide.yaml') {
  if (text !== null) await writeFile(join(dir, name), text);
  return (await loadConfig({ cwd: dir, env })).config;
}

async function faults(text: string | null, env: NodeJS.ProcessEnv = {}, name = 'waltide.yaml'): Promise<string[]> {
  try {
    await load(text, env, name);
  } catch (error) {
    if (error instanceof ConfigError) return error.faults.map(formatFault);
    throw error;
  }
  return [];
}

describe('a configuration file', () => {
  it('needs little, and gets every default', async () => {
    const config = await load(LEAST);
    expect(config.source).toMatchObject({ slot: 'waltide', publication: 'waltide', heartbeatIntervalMs: 10_000 });
    expect(config.transport).toEqual({ type: 'in-process', inFlightBytesMax: 16_777_216 });
    expect(config.sinks[0]).toMatchObject({ name: 'analytics', threads: 2, batch: {} });
    expect(config.strategy).toBe('near_real_time');
  });

  it('may be JSON, indented by tabs', async () => {
    const text = JSON.stringify({ source: { url: 'postgres://h/d', tables: ['a.b'] } }, null, '\t');
    expect((await load(text, {}, 'waltide.json')).source.tables).toEqual(['a.b']);
  });

  it('resolves file paths against its own folder', async () => {
    const text = `${LEAST}stateDir: state
transport: { type: kafka, brokers: ["a:1"], topicPrefix: t, ssl: { ca: ca.pem, key: /abs/key.pem } }
`.replace('/db', '/db?sslmode=verify-full&sslrootcert=my%20ca.pem');
    const config = await load(text);
    expect(config.stateDir).toBe(join(dir, 'state'));
    expect(config.sinks[0]!.path).toBe(join(dir, 'analytics.duckdb'));
    expect(config.transport).toMatchObject({ ssl: { ca: join(dir, 'ca.pem'), key: '/abs/key.pem' } });
    expect(new URL(config.source.url).searchParams.get('sslrootcert')).toBe(join(dir, 'my ca.pem'));
  });

  it('may use anchors and merge keys, and leave a map empty', async () => {
    const config = await load(`${LEAST.replace('{ name: analytics,', '&base { name: analytics,')}  - <<: *base
    name: other
    path: other.duckdb
metrics:
`);
    expect(config.sinks[1]).toMatchObject({ name: 'other', type: 'duckdb', path: join(dir, 'other.duckdb') });
    expect(config.metrics.port).toBe(9464);
  });

  it('is asked for by name where two are there, and none is', async () => {
    expect(await faults(null)).toEqual([expect.stringContaining('write one, or give --config FILE')]);
    await writeFile(join(dir, 'waltide.json'), '{}');
    expect(await faults(LEAST)).toEqual([expect.stringContaining('waltide.yaml and waltide.json are both in')]);
    await expect(loadConfig({ cwd: dir, env: {}, file: 'not.yaml' })).rejects.toThrow('not.yaml does not exist');
    await writeFile(join(dir, 'a.yaml'), LEAST);
    expect((await loadConfig({ cwd: dir, env: { WALTIDE_CONFIG: 'a.yaml' } })).file).toBe(join(dir, 'a.yaml'));
  });
});

describe('faults', () => {
  it('are all told at once, in file order, each with line, column and remedy', async () => {
    const text = `sorce: 1
source:
  url: mysql://host/db
  tables: []
  slot: My-Slot
  heartbeatIntervalMs: 1.5
  exclude: public.x
transport:
  type: kafak
sinks:
  - name: a
    type: duckdb
    path: x.duckdb
    treads: 2
  - name: a
    type: duckdb
    path: ./x.duckdb
    memoryLimit: lots
    batch: { rowsMax: 0 }
metrics: { port: 70000, host: 7 }
log: { level: verbose }
slot: x
`;
    expect(await faults(text)).toEqual([
      'waltide.yaml:1:1 sorce: is not a key of the configuration; did you mean "source"?',
      'waltide.yaml:3:8 source.url: must be a URL such as postgres://user:password@host:5432/database',
      'waltide.yaml:4:11 source.tables: needs at least one entry',
      'waltide.yaml:5:9 source.slot: must be 1 to 63 of a-z, 0-9 and "_" (PostgreSQL allows no others in a slot name)',
      'waltide.yaml:6:24 source.heartbeatIntervalMs: must be a whole number',
      'waltide.yaml:7:12 source.exclude: must be a list, not text; write each entry on a line of its own after "- "',
      'waltide.yaml:9:9 transport.type: must be one of in-process, kafka; did you mean "kafka"?',
      'waltide.yaml:14:5 sinks[0].treads: is not a key of the configuration; did you mean "threads"?',
      'waltide.yaml:15:11 sinks[1].name: sinks[0] has this name too; give each sink its own, offsets are saved under it',
      'waltide.yaml:17:11 sinks[1].path: sinks[0] writes this file too; DuckDB allows one writer per file',
      'waltide.yaml:18:18 sinks[1].memoryLimit: must be a size such as 512MB',
      'waltide.yaml:19:23 sinks[1].batch.rowsMax: must be more than 0',
      'waltide.yaml:20:18 metrics.port: must be at most 65535',
      'waltide.yaml:20:31 metrics.host: must be text, not a number; put it in quotes',
      'waltide.yaml:21:15 log.level: must be one of trace, debug, info, warn, error, fatal',
      'waltide.yaml:22:1 slot: is not a key here; did you mean "source.slot"?',
    ]);
  });

  it('name what is missing and the variable that could give it', async () => {
    expect(await faults('transport:\n  type: kafka\n  sasl: { username: u }\n')).toEqual([
      expect.stringMatching(
        /^waltide\.yaml:1:1 source\.url: is required \(postgres:.*write it here or set WALTIDE_SOURCE_URL$/,
      ),
      expect.stringMatching(/^waltide\.yaml:1:1 source\.tables: is required .*WALTIDE_SOURCE_TABLES$/),
      expect.stringMatching(/^waltide\.yaml:1:1 transport\.brokers: is required/),
      expect.stringMatching(/^waltide\.yaml:1:1 transport\.topicPrefix: is required/),
      expect.stringMatching(/^waltide\.yaml:3:3 transport\.sasl\.mechanism: is required: one of plain, scram-sha-256/),
      expect.stringMatching(/^waltide\.yaml:3:3 transport\.sasl\.password: is required/),
    ]);
    expect(await faults(`${LEAST}transport: { brokers: ["a:1"] }`)).toEqual([
      expect.stringMatching(/transport\.type: is required: one of in-process, kafka/),
    ]);
  });

  it('tell keys of another variant from unknown ones, and look into unions', async () => {
    expect(await faults(`${LEAST}transport:\n  type: in-process\n  brokers: ["a:1"]\n`)).toEqual([
      'waltide.yaml:8:3 transport.brokers: belongs to type kafka, not to in-process; remove it or change the type',
    ]);
    const kafka = `${LEAST}transport:\n  type: kafka\n  brokers: [localhost]\n  topicPrefix: t\n`;
    expect(await faults(`${kafka}  ssl: { cert: 1, caa: x }\n`)).toEqual([
      'waltide.yaml:8:13 transport.brokers[0]: must be host:port',
      'waltide.yaml:10:16 transport.ssl.cert: must be text, not a number; put it in quotes',
      'waltide.yaml:10:19 transport.ssl.caa: is not a key of the configuration; did you mean "ca"?',
    ]);
    expect(await faults(`${kafka.replace('localhost', '"a:1"')}  ssl: sure\n`)).toEqual([
      'waltide.yaml:10:8 transport.ssl: must be true or false or a map of keys, not text',
    ]);
  });

  it.each([
    ['a tab', 'source:\n\turl: x\n', 'waltide.yaml:2:1: a tab is used as indentation; YAML allows only spaces there'],
    ['two keys on a line', 'a: b: c\n', /^waltide\.yaml:1:4: two "key:" on one line/],
    ['an open quote', 'a: "x\n', /^waltide\.yaml:2:1: Missing closing "quote/],
    ['an unquoted variable in a flow map', 'metrics: { port: ${P} }\n', /in quotes: "\$\{VAR\}"$/],
    ['a second document', 'a: 1\n---\nb: 1\n', /^waltide\.yaml:2:1: a second document begins/],
    ['an unknown tag', 'a: !secret x\n', /^waltide\.yaml:1:4: Unresolved tag: !secret/],
    ['a text instead of a map', 'hello\n', /must be a map of keys, not text$/],
    ['a list instead of a map', '- a\n', /must be a map of keys, not a list$/],
  ])('explain syntax: %s', async (_name, text, message) => {
    expect(await faults(text)).toEqual([typeof message === 'string' ? message : expect.stringMatching(message)]);
  });

  it('tell keys written twice, unknown anchors and endless aliases', async () => {
    expect(await faults(`${LEAST}stateDir: a\nstateDir: b\n`)).toEqual([
      'waltide.yaml:7:1 stateDir: is written twice; keep one of the two',
    ]);
    expect(await faults(`${LEAST}log: *none\n`)).toEqual([
      'waltide.yaml:6:6 log: there is no anchor "&none" before this',
    ]);
    const self = await faults('source: &a\n  url: postgres://h/d\n  tables: *a\n  exclude: *a\n');
    expect(self.filter((fault) => fault.includes('leads to itself'))).toHaveLength(2);
    expect(self.length).toBeLessThan(4);
    const bomb = Array.from(
      { length: 12 },
      (_, i) =>
        `a${i}: &a${i} [${Array(9)
          .fill(i ? `*a${i - 1}` : 'x')
          .join(',')}]`,
    );
    expect(await faults(bomb.join('\n'))).toContainEqual(expect.stringContaining('nested too deeply'));
  });

  it('of a password that breaks the URL say how to write it, without the password', async () => {
    const [fault] = await faults(LEAST.replace('user:pass@', 'user:se/cr#et@'));
    expect(fault).toMatch(/^waltide\.yaml:2:8 source\.url: cannot be read as a URL; write "@", "\/"/);
    expect(fault).not.toContain('cr#et');
  });

  it('empty values are not silently defaults', async () => {
    expect(await faults(`${LEAST}stateDir:\n`)).toEqual([
      'waltide.yaml:6:10 stateDir: has no value; write one, or remove the key',
    ]);
    expect(await faults('')).toHaveLength(2);
  });
});

describe('${VAR} in a file', () => {
  it('takes the variable, or the default where it is unset or empty', async () => {
    const text = LEAST.replace('user:pass@host', '${USER}:${PASS:-p:@x}@${HOST:-db}');
    const env = { USER: 'me', HOST: '' };
    expect((await load(text, env)).source.url).toBe('postgres://me:p:@x@db:5432/db');
  });

  it('becomes number, boolean or list where the schema expects one', async () => {
    const text = `${LEAST.replace('["public.*"]', '${TABLES}')}metrics: { port: "\${PORT}", enabled: "\${ON:-false}" }\n`;
    const config = await load(text, { TABLES: 'a.*, b.c', PORT: '0' });
    expect(config.source.tables).toEqual(['a.*', 'b.c']);
    expect(config.metrics).toMatchObject({ port: 0, enabled: false });
    expect(await faults(text, { TABLES: 'a.b', PORT: 'http' })).toEqual([
      'waltide.yaml:6:18 metrics.port: must be a number, not text',
    ]);
  });

  it('never becomes YAML or a variable again', async () => {
    const config = await load(LEAST.replace('./analytics.duckdb', '"${P}"'), { P: 'x"} # ${Q} [\n&a' });
    expect(config.sinks[0]!.path).toBe(join(dir, 'x"} # ${Q} [\n&a'));
    const literal = await load(
      LEAST.replace('./analytics.duckdb', () => '"$${P}$"'),
      {},
    );
    expect(literal.sinks[0]!.path).toBe(join(dir, '${P}$'));
  });

  it('is a fault where the variable is missing or the form unknown, and only one per place', async () => {
    const text = LEAST.replace('postgres://user:pass@host:5432/db', '${DATABASE_URL}').replace(
      'analytics,',
      '"${A-b}",',
    );
    expect(await faults(text)).toEqual([
      'waltide.yaml:2:8 source.url: the variable DATABASE_URL is not set; set it, or give a default: ${DATABASE_URL:-…}',
      'waltide.yaml:5:13 sinks[0].name: "${A-b}" is not ${VAR} or ${VAR:-default}; write "$${" for a literal "${"',
    ]);
    expect(await faults(LEAST.replace('./analytics.duckdb', '"${A:-${B}}"'))).toEqual([
      expect.stringContaining('is not ${VAR}'),
    ]);
    expect(await faults(LEAST.replace('./analytics.duckdb', '"${A"'))).toEqual([
      expect.stringContaining('without "}"'),
    ]);
  });
});

describe('a configuration made in code', () => {
  it('is checked like a file, and not changed', () => {
    const input = { source: { url: 'postgres://h/d', tables: ['a.b'] }, stateDir: 'state' };
    expect(resolveConfig(input, '/base').stateDir).toBe('/base/state');
    expect(input.stateDir).toBe('state');
    const wrong = { source: { ...input.source, slt: 'x' } };
    expect(() => resolveConfig(wrong)).toThrow('source.slt: is not a key of the configuration; did you mean "slot"?');
  });
});
