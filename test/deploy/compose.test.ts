import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Ajv } from 'ajv';
import { describe, expect, it } from 'vitest';
import { parseDocument } from 'yaml';
import { loadConfig } from '../../src/config/load.ts';

/*
 * There is no container engine in our CI, so the files are held against the Compose Specification's own JSON Schema
 * (as the npm package dclint carries it) and against each other.
 */

const root = fileURLToPath(new URL('../..', import.meta.url));
const read = (file: string) => readFileSync(`${root}/${file}`, 'utf8');

interface Service {
  image?: string;
  build?: { context: string; dockerfile: string };
  command?: string[];
  environment?: Record<string, string>;
  healthcheck?: unknown;
  depends_on?: Record<string, { condition: string }>;
  ports?: string[];
  volumes?: string[];
  stop_grace_period?: string;
}

interface Compose {
  services: Record<string, Service>;
  volumes: Record<string, unknown>;
}

function parse(text: string): Compose {
  const document = parseDocument(text);
  expect([...document.errors, ...document.warnings]).toEqual([]);
  return document.toJS() as Compose;
}

const compose = parse(read('docker-compose.yml'));
const services = Object.entries(compose.services);
const waltide = compose.services.waltide!;

/** What Docker Compose itself puts in, where the variable is not set. */
function interpolate(value: string): string {
  return value.replace(/\$\{[A-Z_]+:-([^}]*)\}/g, '$1');
}

describe('docker-compose.yml', () => {
  const schema = JSON.parse(read('node_modules/dclint/schemas/compose.schema.json')) as Record<string, unknown>;
  // The formats are `duration` and others of Compose's own; an unknown one is not checked.
  const ajv = new Ajv({ strict: false, allErrors: true, validateFormats: false });
  ajv.addMetaSchema({
    ...(ajv.getSchema('http://json-schema.org/draft-07/schema')!.schema as object),
    $id: String(schema.$schema),
  });
  const validate = ajv.compile(schema);

  it('keeps to the Compose Specification', () => {
    expect(validate(compose), JSON.stringify(validate.errors, null, 2)).toBe(true);
  });

  it.each([
    ['an unknown key', 'read_only: true', 'readonly: true'],
    ['a wrong type', 'restart: unless-stopped', 'restart: [always]'],
    ['an unknown condition', 'condition: service_healthy', 'condition: healthy'],
    ['a wrong build', 'dockerfile: deploy/Dockerfile', 'dockerfle: deploy/Dockerfile'],
  ])('would be told of %s', (_name, from, to) => {
    const text = read('docker-compose.yml');
    expect(text).toContain(from);
    expect(validate(parse(text.replaceAll(from, to)))).toBe(false);
  });

  it('names only services, volumes and files that are there', () => {
    for (const [name, service] of services) {
      for (const [other, { condition }] of Object.entries(service.depends_on ?? {})) {
        expect(compose.services[other], `${name} depends on ${other}`).toBeDefined();
        if (condition === 'service_healthy') expect(compose.services[other]!.healthcheck, other).toBeDefined();
      }
      for (const volume of service.volumes ?? []) {
        const source = volume.split(':')[0]!;
        if (source.startsWith('.')) expect(existsSync(`${root}/${source}`), volume).toBe(true);
        else expect(Object.keys(compose.volumes), volume).toContain(source);
      }
      expect(service.image ?? service.build, name).toBeDefined();
      expect(service.image ?? 'x:1', 'a pinned version').toMatch(/:\d/);
    }
    expect(existsSync(`${root}/${waltide.build!.dockerfile}`)).toBe(true);
  });

  it('publishes on the loopback only, no port twice', () => {
    const ports = services.flatMap(([, service]) => service.ports ?? []);
    expect(ports.filter((port) => !/^127\.0\.0\.1:\d+:\d+$/.test(port))).toEqual([]);
    expect(new Set(ports.map((port) => port.split(':')[1])).size).toBe(ports.length);
  });

  it('gives PostgreSQL what logical replication needs', () => {
    expect(compose.services.postgres!.command).toContain('wal_level=logical');
    expect(compose.services.postgres!.image).toBe('postgres:18');
  });
});

describe('deploy/waltide.yaml', () => {
  const env = Object.fromEntries(Object.entries(waltide.environment!).map(([key, value]) => [key, interpolate(value)]));
  const load = async () => (await loadConfig({ file: 'deploy/waltide.yaml', cwd: root, env })).config;

  it('is valid, and reaches the services by the names and ports of docker-compose.yml', async () => {
    const config = await load();
    const { postgres, kafka } = compose.services;
    const url = new URL(config.source.url);
    expect(url.hostname).toBe('postgres');
    expect(url.password).toBe(interpolate(postgres!.environment!.POSTGRES_PASSWORD!));
    expect(url.pathname).toBe(`/${postgres!.environment!.POSTGRES_DB}`);
    const { transport } = config;
    if (transport.type !== 'kafka') throw new Error('not Kafka');
    const advertised = kafka!.environment!.KAFKA_ADVERTISED_LISTENERS!.split(',').map((one) => one.split('://')[1]);
    expect(transport.brokers.filter((broker) => !advertised.includes(broker))).toEqual([]);
  });

  it('can be seen from outside the container, and keeps everything in the volume', async () => {
    const config = await load();
    expect(config.metrics).toMatchObject({ enabled: true, host: '0.0.0.0' });
    expect(waltide.ports!.map((port) => Number(port.split(':').at(-1)))).toContain(config.metrics.port);
    const volume = waltide.volumes!.find((one) => one.startsWith('waltide-data:'))!.split(':')[1]!;
    expect(config.stateDir.startsWith(`${volume}/`)).toBe(true);
    expect(config.sinks.every((sink) => sink.path.startsWith(`${volume}/`))).toBe(true);
    expect(Number.parseInt(waltide.stop_grace_period!, 10) * 1000).toBeGreaterThan(config.shutdownTimeoutMs);
  });
});

describe('deploy/Dockerfile', () => {
  const dockerfile = read('deploy/Dockerfile').replaceAll('\\\n', ' ');
  const instructions = dockerfile.split('\n').filter((line) => /^[A-Z]+ /.test(line));
  const of = (name: string) => instructions.filter((line) => line.startsWith(`${name} `));

  it('copies only what is there and what its ignore file lets in', () => {
    const allowed = read('deploy/Dockerfile.dockerignore').match(/(?<=^!).+/gm)!;
    const copied = of('COPY')
      .filter((line) => !line.includes('--from='))
      .flatMap((line) => line.split(' ').slice(1, -1));
    expect(copied.length).toBeGreaterThan(0);
    for (const source of copied) {
      expect(existsSync(`${root}/${source}`), source).toBe(true);
      expect(allowed).toContain(source);
    }
  });

  it('runs as an ordinary user on the Node that we support, with a health check', async () => {
    expect(of('FROM').map((line) => line.split(' ')[1])).toEqual(['node:20-slim', 'node:20-slim']);
    expect(of('USER')).toEqual(['USER node']);
    expect(of('HEALTHCHECK').join()).toContain('/healthz');
    const main = JSON.parse(read('package.json')) as { bin: { waltide: string } };
    expect(of('ENTRYPOINT')).toEqual([`ENTRYPOINT ["node", "${main.bin.waltide.replace('./', '/app/')}"]`]);
    const mounted = waltide.volumes!.some((one) =>
      one.includes(
        `:${
          of('ENV')
            .join(' ')
            .match(/WALTIDE_CONFIG=(\S+)/)![1]
        }:`,
      ),
    );
    expect(mounted).toBe(true);
  });
});
