import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { resolveConfig } from '../../src/config/load.ts';
import type { Config, ConfigInput } from '../../src/config/schema.ts';
import { createLog } from '../../src/log.ts';
import type { StoppedTableOf } from '../../src/pipeline/applier.ts';
import { Pipeline } from '../../src/pipeline/pipeline.ts';
import type { Sink } from '../../src/sink/sink.ts';
import type { Tracer } from '../../src/tracing/tracer.ts';
import type { TestDatabase } from './postgres.ts';

/** Quiet, unless WALTIDE_TEST_LOG asks for a level. */
export const log = createLog({ level: process.env.WALTIDE_TEST_LOG ?? 'fatal', format: 'pretty' });

export interface TestPipeline {
  readonly config: Config;
  /** Where the DuckDB file of sink "analytics" is. */
  readonly path: string;
}

/** A pipeline's configuration of the test's own: slot and publication named after the database. */
export function testPipeline(
  database: TestDatabase,
  overrides: Partial<ConfigInput> = {},
  source: Partial<ConfigInput['source']> = {},
): TestPipeline {
  const folder = mkdtempSync(join(tmpdir(), 'waltide-test-'));
  const path = join(folder, 'analytics.duckdb');
  const config = resolveConfig(
    {
      source: {
        url: database.url,
        slot: database.name,
        publication: database.name,
        tables: ['*.*'],
        heartbeatIntervalMs: 500,
        ...source,
      },
      sinks: [{ name: 'analytics', type: 'duckdb', path }],
      metrics: { enabled: false },
      ...overrides,
    },
    folder,
  );
  return { config, path };
}

/** Copies if need be, streams until everything written so far is in every sink, and stops. */
export async function catchUp(
  config: Config,
  options: { role?: 'all' | 'apply'; recopy?: boolean; sinks?: readonly Sink[] } = {},
): Promise<readonly StoppedTableOf[]> {
  const timeout = AbortSignal.timeout(90_000);
  const pipeline = new Pipeline({ config, role: 'all', log, ...options });
  let status = pipeline.status();
  timeout.addEventListener('abort', () => (status = pipeline.status()), { once: true });
  const { stopped } = await pipeline.run('caught-up', timeout);
  if (timeout.aborted) throw new Error(`did not catch up: ${JSON.stringify(status, null, 1)}`);
  return stopped;
}

export interface RunningPipeline {
  readonly pipeline: Pipeline;
  /** How it ends, if it does by itself. */
  readonly finished: Promise<unknown>;
  /** Drains and ends it; rejects with what made it fail. */
  stop(): Promise<void>;
}

/** Starts one that runs until it is stopped. */
export function start(
  config: Config,
  options: { role?: 'all' | 'capture' | 'apply'; sinks?: readonly Sink[]; tracer?: Tracer | null } = {},
): RunningPipeline {
  const controller = new AbortController();
  const pipeline = new Pipeline({ config, role: options.role ?? 'all', log, ...options });
  const finished = pipeline.run(null, controller.signal);
  finished.catch(() => {});
  return {
    pipeline,
    finished,
    stop: async () => {
      controller.abort();
      await finished;
    },
  };
}

/** Asks until `condition` holds; fails with `what` after `timeoutMs`. */
export async function eventually(
  what: string,
  condition: () => boolean | Promise<boolean>,
  timeoutMs = 90_000,
): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
