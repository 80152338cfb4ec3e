import { tmpdir } from 'node:os';
import { describe, expect, it } from 'vitest';
import { emptyDocument } from '../../src/config/document.ts';
import { applyEnvironment } from '../../src/config/environment.ts';
import { ConfigError, formatFault } from '../../src/config/faults.ts';
import { loadConfig } from '../../src/config/load.ts';
import { configKeys, formatPath } from '../../src/config/shape.ts';

const URL_ONLY = { WALTIDE_SOURCE_URL: 'postgres://h/d', WALTIDE_SOURCE_TABLES: 'public.*' };

async function load(env: NodeJS.ProcessEnv) {
  return (await loadConfig({ cwd: tmpdir(), env })).config;
}

async function faults(env: NodeJS.ProcessEnv): Promise<string[]> {
  const error: unknown = await load(env).then(
    () => null,
    (reason: unknown) => reason,
  );
  if (error instanceof ConfigError) return error.faults.map(formatFault);
  if (error) throw error;
  return [];
}

describe('the environment', () => {
  it('has exactly one variable per key, and no two keys share one', () => {
    const variables = configKeys.map((key) => key.variable);
    expect(new Set(variables).size).toBe(variables.length);
    expect(new Set(configKeys.map((key) => formatPath(key.path))).size).toBe(variables.length);
    expect(variables).toContain('WALTIDE_SOURCE_HEARTBEAT_INTERVAL_MS');
    expect(variables).toContain('WALTIDE_SINKS_<n>_BATCH_ROWS_MAX');
    expect(variables).toContain('WALTIDE_TRANSPORT_SSL_CA');
    expect(configKeys.every((key) => key.shape.description)).toBe(true);
  });

  it('alone can give everything', async () => {
    const config = await load({
      ...URL_ONLY,
      WALTIDE_SOURCE_HEARTBEAT_INTERVAL_MS: '0',
      WALTIDE_TRANSPORT_TYPE: 'kafka',
      WALTIDE_TRANSPORT_BROKERS: 'a:1, b:2',
      WALTIDE_TRANSPORT_TOPIC_PREFIX: '42',
      WALTIDE_TRANSPORT_TOMBSTONES: 'false',
      WALTIDE_TRANSPORT_SSL: 'true',
      WALTIDE_TRANSPORT_SSL_REJECT_UNAUTHORIZED: 'false',
      WALTIDE_SINKS_0_NAME: 'my-sink',
      WALTIDE_SINKS_0_TYPE: 'duckdb',
      WALTIDE_SINKS_MY_SINK_PATH: '/data/x.duckdb',
      WALTIDE_SINKS_MY_SINK_BATCH_ROWS_MAX: '7',
      WALTIDE_LOG_LEVEL: '',
    });
    expect(config.source.heartbeatIntervalMs).toBe(0);
    expect(config.transport).toMatchObject({
      type: 'kafka',
      brokers: ['a:1', 'b:2'],
      topicPrefix: '42',
      tombstones: false,
      ssl: { rejectUnauthorized: false },
    });
    expect(config.sinks).toMatchObject([{ name: 'my-sink', path: '/data/x.duckdb', batch: { rowsMax: 7 } }]);
    expect(config.log.level).toBe('info');
  });

  it('takes lists and the sinks as JSON', async () => {
    const sinks = [{ name: 'a', type: 'duckdb', path: '/a' }];
    const env = {
      ...URL_ONLY,
      WALTIDE_SOURCE_TABLES: '["a.b,c"]',
      WALTIDE_SINKS: JSON.stringify(sinks),
      WALTIDE_SINKS_A_THREADS: '3',
    };
    const config = await load(env);
    expect(config.source.tables).toEqual(['a.b,c']);
    expect(config.sinks).toMatchObject([{ name: 'a', threads: 3 }]);
    expect(await faults({ ...env, WALTIDE_SINKS: '[{"name":"secret"' })).toEqual([
      expect.stringMatching(/^WALTIDE_SINKS sinks: is not valid JSON/),
      expect.stringContaining('WALTIDE_SINKS_A_THREADS: no key'),
    ]);
  });

  it('is named where it is at fault', async () => {
    const env = { ...URL_ONLY, WALTIDE_SOURCE_SLOT: 'A', WALTIDE_METRICS_PORT: 'x', WALTIDE_SINKS_1_PATH: 'y' };
    expect(await faults(env)).toEqual([
      'WALTIDE_METRICS_PORT metrics.port: must be a number, not text',
      'WALTIDE_SINKS_1_PATH sinks[1].path: there is no sinks[0] yet; entries are counted from 0 without gaps',
      expect.stringMatching(/^WALTIDE_SOURCE_SLOT source\.slot: must be 1 to 63/),
    ]);
  });

  it('with a misspelt variable is a fault, with the nearest suggested', async () => {
    const sink = { WALTIDE_SINKS_0_NAME: 'a', WALTIDE_SINKS_0_TYPE: 'duckdb', WALTIDE_SINKS_0_PATH: '/a' };
    expect(await faults({ ...URL_ONLY, ...sink, WALTIDE_SOURCE_SLTO: 'x', WALTIDE_SINKS_A_PAHT: 'y' })).toEqual([
      'WALTIDE_SINKS_A_PAHT: no key of the configuration has this variable; did you mean "WALTIDE_SINKS_A_PATH"?',
      'WALTIDE_SOURCE_SLTO: no key of the configuration has this variable; did you mean "WALTIDE_SOURCE_SLOT"?',
    ]);
  });

  it('of Kubernetes, beside a Service named waltide or waltide-metrics, is not ours', async () => {
    const config = await load({
      ...URL_ONLY,
      WALTIDE_TEST_KAFKA: '1',
      WALTIDE_SERVICE_HOST: '10.0.0.1',
      WALTIDE_SERVICE_PORT: '9464',
      WALTIDE_SERVICE_PORT_HTTP: '9464',
      WALTIDE_PORT: 'tcp://10.0.0.1:9464',
      WALTIDE_PORT_9464_TCP: 'tcp://10.0.0.1:9464',
      WALTIDE_PORT_9464_TCP_PROTO: 'tcp',
      WALTIDE_PORT_9464_TCP_PORT: '9464',
      WALTIDE_PORT_9464_TCP_ADDR: '10.0.0.1',
      WALTIDE_METRICS_PORT: 'tcp://10.0.0.2:9999',
      WALTIDE_METRICS_SERVICE_HOST: '10.0.0.2',
    });
    expect(config.metrics.port).toBe(9464);
  });

  it('asks for the number where a name could be two sinks', () => {
    const document = emptyDocument({ sinks: [{ name: 'a-b' }, { name: 'a_b' }] });
    applyEnvironment(document, { WALTIDE_SINKS_A_B_PATH: '/x', WALTIDE_SINKS_1_THREADS: '4' });
    expect(document.faults.map(formatFault)).toEqual([
      'WALTIDE_SINKS_A_B_PATH: could be any of sinks[0].path, sinks[1].path; use the number of the entry instead of its name',
    ]);
    expect(document.value).toEqual({ sinks: [{ name: 'a-b' }, { name: 'a_b', threads: 4 }] });
  });

  it('overrides a file, and prototypes stay as they are', async () => {
    const document = emptyDocument(JSON.parse('{"source":{"slot":"file"},"__proto__":{"x":1}}'));
    applyEnvironment(document, { WALTIDE_SOURCE_SLOT: 'env' });
    expect((document.value as { source: unknown }).source).toEqual({ slot: 'env' });
    expect(({} as { x?: number }).x).toBeUndefined();
  });
});
