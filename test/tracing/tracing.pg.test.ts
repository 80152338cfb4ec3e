import { createServer, type IncomingHttpHeaders, type Server } from 'node:http';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openTracer } from '../../src/tracing/open.ts';
import { MemorySink } from '../support/memory-sink.ts';
import { eventually, log, start, testPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

/* A collector of our own takes what a pipeline of PostgreSQL into DuckDB and into memory sends, in OTLP's JSON. */

interface Span {
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly name: string;
  readonly startTimeUnixNano: string;
  readonly endTimeUnixNano: string;
  readonly status: { readonly code: number; readonly message?: string };
  readonly attributes: readonly { readonly key: string; readonly value: Record<string, string | number> }[];
  readonly links?: readonly { readonly traceId: string; readonly spanId: string }[];
}

class Collector {
  readonly bodies: string[] = [];
  readonly headers: IncomingHttpHeaders[] = [];
  readonly paths: string[] = [];
  readonly #server: Server;

  private constructor() {
    this.#server = createServer(async (request, response) => {
      let body = '';
      for await (const chunk of request) body += chunk;
      this.bodies.push(body);
      this.headers.push(request.headers);
      this.paths.push(`${request.method} ${request.url}`);
      response.writeHead(200, { 'content-type': 'application/json' }).end('{}');
    });
  }

  static async start(): Promise<Collector> {
    const collector = new Collector();
    await new Promise<void>((resolve) => collector.#server.listen(0, '127.0.0.1', resolve));
    return collector;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  get spans(): Span[] {
    return this.bodies.flatMap((body) =>
      JSON.parse(body).resourceSpans.flatMap((resource: { scopeSpans: { spans: Span[] }[] }) =>
        resource.scopeSpans.flatMap(({ spans }) => spans),
      ),
    );
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

const loaded = (): string[] =>
  Object.keys(createRequire(import.meta.url).cache).filter((file) => file.includes('exporter-trace-otlp-http'));

function attribute({ attributes }: Span, key: string): string | number | undefined {
  const value = attributes.find((one) => one.key === key)?.value;
  return value && Object.values(value)[0];
}

describe('traces', () => {
  let database: TestDatabase;
  let collector: Collector;
  beforeEach(async () => {
    database = await createDatabase();
    collector = await Collector.start();
    await database.query('create table t (id int primary key, word text)');
  });
  afterEach(async () => {
    await database.drop();
    await collector.close();
  });

  async function run(tracing: object, work: (memory: MemorySink) => Promise<void>, told = log): Promise<void> {
    const { config } = testPipeline(database, { tracing });
    const memory = new MemorySink();
    const tracer = await openTracer(config, told, {});
    const running = start(config, { sinks: [memory], tracer });
    try {
      await eventually('it streams', () => running.pipeline.status().ready);
      await work(memory);
    } finally {
      await running.stop();
      await tracer?.close();
    }
  }

  const arrived = (memory: MemorySink, count: number): Promise<void> =>
    eventually('it came', () => memory.events.filter(({ op }) => op === 'c').length === count);

  it('nothing is loaded and nothing sent where nobody asks for them', async () => {
    await run({}, async (memory) => {
      await database.query("insert into t values (1, 'a')");
      await arrived(memory, 1);
    });
    expect(loaded()).toEqual([]);
    expect(collector.bodies).toEqual([]);
    await run({ endpoint: collector.url }, async () => {});
    expect(loaded()).not.toEqual([]);
  });

  it("OpenTelemetry's own variables ask for them, and turn them off", async () => {
    const { config } = testPipeline(database);
    const env = { OTEL_EXPORTER_OTLP_ENDPOINT: collector.url };
    const tracer = await openTracer(config, log, env);
    expect(tracer).not.toBeNull();
    await tracer?.close();
    expect(await openTracer(config, log, { ...env, OTEL_SDK_DISABLED: 'true' })).toBeNull();
  });

  it('a batch is one trace from the WAL to every sink, without values or secrets', async () => {
    const tracing = { endpoint: `${collector.url}/`, headers: 'authorization=Bearer%20hush', sampleRatio: 1 };
    await run(tracing, async (memory) => {
      for (let i = 1; i <= 20; i++) await database.query('insert into t values ($1, $2)', [i, 'never-shown']);
      await arrived(memory, 20);
    });
    expect(new Set(collector.paths)).toEqual(new Set(['POST /v1/traces']));
    expect(collector.headers[0]!.authorization).toBe('Bearer hush');
    const { spans } = collector;
    const roots = spans.filter((one) => one.name === 'batch' && attribute(one, 'waltide.snapshot') === undefined);
    expect(roots.reduce((sum, one) => sum + Number(attribute(one, 'waltide.rows')), 0)).toBe(20);
    for (const root of roots) {
      expect(root.parentSpanId ?? '').toBe('');
      expect(attribute(root, 'waltide.lsn.first')).toMatch(/^[0-9A-F]+\/[0-9A-F]+$/);
      const ofTrace = spans.filter(({ traceId }) => traceId === root.traceId);
      const [read] = ofTrace.filter(({ name }) => name === 'read');
      const [publish] = ofTrace.filter(({ name }) => name === 'publish');
      expect([read!.parentSpanId, publish!.parentSpanId]).toEqual([root.spanId, root.spanId]);
      for (const sink of ['analytics', 'memory']) {
        const applies = spans.filter((one) => one.name === 'apply' && attribute(one, 'waltide.sink') === sink);
        const [apply, ...more] = applies.filter(
          ({ parentSpanId, links = [] }) =>
            parentSpanId === publish!.spanId || links.some(({ spanId }) => spanId === publish!.spanId),
        );
        expect(more, sink).toEqual([]);
        expect(BigInt(apply!.startTimeUnixNano)).toBeGreaterThanOrEqual(BigInt(read!.endTimeUnixNano) - 2_000_000n);
        expect(BigInt(apply!.endTimeUnixNano)).toBeGreaterThan(BigInt(apply!.startTimeUnixNano));
      }
    }
    const text = collector.bodies.join();
    for (const hidden of ['never-shown', 'hush', new URL(database.url).password || 'postgres://', 'word'])
      expect(text).not.toContain(hidden);
    expect(text).toContain('"waltide"');
  });

  it('of a share of batches only, and none at 0', async () => {
    await run({ endpoint: collector.url, sampleRatio: 0 }, async (memory) => {
      await database.query("insert into t values (1, 'a')");
      await arrived(memory, 1);
    });
    expect(collector.spans).toEqual([]);
  });

  it('a collector that is down holds nothing up, and is told of once', async () => {
    const lines: string[] = [];
    const told = pino({}, { write: (line: string) => lines.push(line) });
    const failures = (): number => lines.filter((line) => line.includes('traces cannot be sent')).length;
    await run(
      { endpoint: 'http://127.0.0.1:9', sampleRatio: 1 },
      async (memory) => {
        await database.query("insert into t values (1, 'a')");
        await arrived(memory, 1);
        await eventually('it is told', () => failures() === 1);
        await database.query("insert into t values (2, 'b')");
        await arrived(memory, 2);
      },
      told,
    );
    expect(failures()).toBe(1);
  });
});
