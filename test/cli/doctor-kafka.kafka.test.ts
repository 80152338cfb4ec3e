import { execFileSync } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { configSchema, type KafkaConfig } from '../../src/config/schema.ts';
import { probeBroker } from '../../src/transport/kafka/probe.ts';
import { type KafkaServer, startKafka } from '../support/kafka-server.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';
import { cli, makeProject } from './support.ts';

/*
 * Goal: `doctor` says what is wrong between us and a broker, in words of the configuration. Method: one real broker
 * with a plain port, a TLS port and one that asks for a log-in, each spoken to in every wrong way.
 */
let kafka: KafkaServer;
let database: TestDatabase;

beforeAll(async () => {
  const keystore = join(mkdtempSync(join(tmpdir(), 'waltide-keys-')), 'broker.p12');
  execFileSync('keytool', [
    ...['-genkeypair', '-alias', 'broker', '-keyalg', 'RSA', '-dname', 'CN=127.0.0.1', '-ext', 'SAN=ip:127.0.0.1'],
    ...['-storetype', 'PKCS12', '-keystore', keystore, '-storepass', 'secret', '-validity', '30'],
  ]);
  const login = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_waltide="right";';
  kafka = await startKafka({
    listeners: { TLS: 'SSL', LOGIN: 'SASL_PLAINTEXT' },
    settings: {
      'ssl.keystore.location': keystore,
      'ssl.keystore.password': 'secret',
      'ssl.keystore.type': 'PKCS12',
      'sasl.enabled.mechanisms': 'PLAIN',
      'listener.name.login.plain.sasl.jaas.config': login,
    },
  });
  database = await createDatabase();
}, 300_000);
afterAll(async () => {
  await kafka?.stop();
  await database?.drop();
});

const addressOf = (port: 'PLAINTEXT' | 'TLS' | 'LOGIN' | 'postgres'): string => {
  if (port === 'PLAINTEXT') return kafka.brokers[0]!;
  return port === 'postgres' ? new URL(database.url).host : kafka.listeners[port]!;
};

const PASSWORD = { mechanism: 'plain', username: 'waltide', password: 'right' } as const;

it.each([
  ['PLAINTEXT', {}, null],
  ['PLAINTEXT', { ssl: true }, /speaks plain text, and transport\.ssl is on/],
  ['PLAINTEXT', { sasl: PASSWORD }, /log in|SASL/i],
  ['TLS', { ssl: { rejectUnauthorized: false } }, null],
  ['TLS', {}, /speaks TLS, and transport\.ssl is off/],
  ['TLS', { ssl: true }, /certificate that is not trusted/],
  ['LOGIN', { sasl: PASSWORD }, null],
  ['LOGIN', {}, /hangs up on who has not logged in/],
  ['LOGIN', { sasl: { ...PASSWORD, password: 'wrong' } }, /refused to log in/],
  ['postgres', {}, /does not speak Kafka's protocol/],
] as const)('%s with %j', { timeout: 300_000 }, async (port, transport, problem) => {
  const { transport: config } = configSchema.parse({
    source: { url: 'postgres://localhost/shop', tables: ['public.*'] },
    transport: { type: 'kafka', brokers: [addressOf(port)], topicPrefix: 'p', ...transport },
  });
  const probe = await probeBroker(config as KafkaConfig, addressOf(port));
  if (problem === null) expect(probe).toEqual({ ok: true, advertised: [addressOf(port)] });
  else expect(probe.ok ? '' : `${probe.problem}: ${probe.remedy}`).toMatch(problem);
});

it('is said by doctor, with brokers that cannot be reached where they are said to be', async () => {
  const doctor = async (brokers: readonly string[], transport: object = {}) => {
    const project = await makeProject({
      source: { url: database.url, slot: database.name, tables: ['public.*'] },
      transport: { type: 'kafka', brokers: [...brokers], topicPrefix: 'p', ...transport },
    } as Parameters<typeof makeProject>[0]);
    try {
      const { stdout } = await cli(project.dir, 'doctor', '--json');
      const { checks } = JSON.parse(stdout) as { checks: { name: string; status: string; detail: string }[] };
      return checks.filter(({ name }) => name === 'Kafka').map(({ status, detail }) => `${status} ${detail}`);
    } finally {
      await project.remove();
    }
  };
  const [plain] = kafka.brokers;
  expect(await doctor([plain!])).toEqual([`ok ${plain} answers`]);
  expect(await doctor([plain!, '127.0.0.1:1'])).toEqual([
    expect.stringMatching(/^warn 127\.0\.0\.1:1 connect ECONNREFUSED/),
  ]);
  expect(await doctor(['127.0.0.1:1'])).toEqual([expect.stringMatching(/^fail 127\.0\.0\.1:1 /)]);
  expect(await doctor([addressOf('TLS')])).toEqual([expect.stringMatching(/^fail .* speaks TLS/)]);
  // Its metadata name the plain port, which is not the one that was asked; then it is gone.
  const proxy = await TcpProxy.before(`tcp://${plain}`);
  expect(await doctor([`127.0.0.1:${proxy.port}`])).toEqual([`ok ${plain} answers`]);
  await proxy.close();
}, 300_000);
