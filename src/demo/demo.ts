import pg from 'pg';
import type { EmbeddedPostgres } from '../embedded/embedded-postgres.ts';
import { compareDatabases } from './canonical.ts';
import type { DemoOptions, DemoReport, Kept, Observer } from './events.ts';
import { Home } from './home.ts';
import { LagMeter } from './lag-meter.ts';
import { LivePart } from './live.ts';
import type { PipelineProcess } from './pipeline-process.ts';
import { createShop, fillShop, type Sizes, sizesFor } from './shop.ts';
import { Workload } from './workload.ts';

/** A start takes a second, the copy a few seconds per million rows; beyond these something hangs. */
const START_TIMEOUT_MS = 60_000;
const COPY_TIMEOUT_MS = 600_000;
const CATCH_UP_TIMEOUT_MS = 120_000;

export interface DemoSignals {
  /** Ends everything at once; the result is a rejection. */
  readonly abort: AbortSignal;
  /** Ends the live part early; what was done until then is compared. */
  readonly enough: AbortSignal;
}

/** Runs the whole demo, in order. Resolves after both databases and every process are gone, however it ended. */
export async function runDemo(options: DemoOptions, observe: Observer, signals: DemoSignals): Promise<DemoReport> {
  const home = await Home.create(options.keep);
  const demo = new Demo(options, observe, signals, home);
  try {
    // A query under way would hold up the end; what it leaves behind is removed with the server.
    return await unlessAborted(demo.run(), signals.abort);
  } finally {
    await home.close();
  }
}

async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  let stop = (): void => {};
  const aborted = new Promise<never>((_resolve, reject) => {
    stop = () => reject(signal.reason);
    signal.addEventListener('abort', stop, { once: true });
    if (signal.aborted) stop();
  });
  work.catch(() => {});
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}

class Demo {
  readonly #options: DemoOptions;
  readonly #observe: Observer;
  readonly #signals: DemoSignals;
  readonly #home: Home;
  readonly #startedAt = performance.now();

  constructor(options: DemoOptions, observe: Observer, signals: DemoSignals, home: Home) {
    this.#options = options;
    this.#observe = observe;
    this.#signals = signals;
    this.#home = home;
  }

  async run(): Promise<DemoReport> {
    this.#observe({ type: 'step', step: 'source' });
    const from = performance.now();
    const server = await this.#home.startServer();
    this.#signals.abort.throwIfAborted();
    const client = new pg.Client({ connectionString: server.url, ssl: false, application_name: 'waltide demo' });
    client.on('error', () => {}); // The query under way tells.
    await client.connect();
    try {
      const { rows } = await client.query<{ version: string }>(`SELECT current_setting('server_version') AS version`);
      this.#observe({ type: 'server', version: rows[0]!.version, port: server.port, seconds: this.#seconds(from) });
      return await this.#runWith(server, client);
    } finally {
      await client.end().catch(() => {});
    }
  }

  async #runWith(server: EmbeddedPostgres, client: pg.Client): Promise<DemoReport> {
    const sizes = await this.#fill(client);
    const pipeline = await this.#home.startPipeline(server.url, this.#options.program);
    const copy = await this.#copy(pipeline, sizes);
    const { live, workload, lag, seconds } = await this.#live(server, client, pipeline, sizes);
    const stopped = await this.#catchUp(live, pipeline);
    const tables = await this.#compare(server.url, workload, sizes);
    const kept = this.#options.keep ? await this.#describe(server) : null;
    const { counts, events } = workload;
    return {
      equal: tables.every((table) => table.equal) && stopped.length === 0,
      tables,
      copy,
      live: { seconds, ...counts, events, eventsPerSecond: Math.round(events / seconds), lagMs: lag.summary() },
      schemaChange: live.schemaChange,
      recovery: live.recovery,
      stopped,
      peakRssBytes: live.peakRssBytes,
      totalSeconds: this.#seconds(this.#startedAt),
      kept,
    };
  }

  async #fill(client: pg.Client): Promise<Sizes> {
    const from = performance.now();
    await createShop(client);
    const sizes = sizesFor(this.#options.rows);
    await fillShop(client, sizes, (table, rows) => this.#observe({ type: 'filled', table, rows }));
    this.#observe({
      type: 'filled-all',
      rows: total(sizes),
      tables: Object.keys(sizes).length,
      seconds: this.#seconds(from),
    });
    return sizes;
  }

  async #copy(pipeline: PipelineProcess, sizes: Sizes): Promise<DemoReport['copy']> {
    const { abort } = this.#signals;
    this.#observe({ type: 'step', step: 'copy' });
    const from = performance.now();
    await pipeline.until(({ state }) => state !== 'starting', 'starting the pipeline', START_TIMEOUT_MS, abort);
    const copying = performance.now();
    const rows = total(sizes);
    await pipeline.until(
      ({ state, copy }) => {
        const done = copy.reduce((sum, table) => sum + table.rows, 0);
        this.#observe({
          type: 'copying',
          table: copy.at(-1)?.table ?? '',
          rows: done,
          total: rows,
          seconds: this.#seconds(copying),
        });
        return state === 'streaming';
      },
      'the first copy',
      COPY_TIMEOUT_MS,
      abort,
    );
    const seconds = this.#seconds(copying);
    this.#observe({ type: 'copied', rows, seconds, startSeconds: (copying - from) / 1000 });
    return { rows, seconds, rowsPerSecond: Math.round(rows / seconds) };
  }

  async #live(
    server: EmbeddedPostgres,
    client: pg.Client,
    pipeline: PipelineProcess,
    sizes: Sizes,
  ): Promise<{ live: LivePart; workload: Workload; lag: LagMeter; seconds: number }> {
    const { durationMs } = this.#options;
    const { abort, enough } = this.#signals;
    this.#observe({ type: 'step', step: 'live' });
    this.#observe({
      type: 'look',
      url: server.url,
      configFile: this.#home.configFile,
      durationSeconds: durationMs / 1000,
    });
    const lag = new LagMeter();
    const workload = new Workload(server.url, sizes, (lsn, timeMs) => lag.committed(lsn, timeMs));
    const from = performance.now();
    const live = new LivePart({
      client,
      pipeline,
      workload,
      lag,
      durationMs,
      observe: this.#observe,
      signal: abort,
      enough,
    });
    try {
      await live.run();
    } finally {
      await workload.stop();
    }
    const seconds = this.#seconds(from);
    this.#observe({ type: 'live-over', interrupted: enough.aborted });
    return { live, workload, lag, seconds };
  }

  /** Returns the tables that the sink has set aside. */
  async #catchUp(live: LivePart, pipeline: PipelineProcess): Promise<string[]> {
    this.#observe({ type: 'step', step: 'catch-up' });
    const from = performance.now();
    await live.catchUp(CATCH_UP_TIMEOUT_MS);
    const status = await pipeline.status();
    await pipeline.stop();
    this.#observe({ type: 'caught-up', seconds: this.#seconds(from) });
    return (status?.sinks ?? []).flatMap((sink) => sink.stopped.map(({ name, reason }) => `${name}: ${reason}`));
  }

  async #compare(url: string, workload: Workload, sizes: Sizes): Promise<DemoReport['tables']> {
    this.#observe({ type: 'step', step: 'compare' });
    const { duckdbFile } = this.#home;
    await this.#options.beforeCompare?.({ url, duckdbFile });
    const from = performance.now();
    const { inserts, deletes } = workload.counts;
    const expected = total(sizes) + inserts - deletes;
    const seen = new Map<string, number>();
    const tables = await compareDatabases(url, duckdbFile, (table, rows) => {
      seen.set(table, rows);
      this.#observe({ type: 'comparing', table, rows: [...seen.values()].reduce((a, b) => a + b, 0), total: expected });
    });
    this.#observe({ type: 'compared', tables, seconds: this.#seconds(from) });
    return tables;
  }

  async #describe(server: EmbeddedPostgres): Promise<Kept> {
    const kept = await this.#home.describe(server);
    this.#observe({ type: 'kept', kept });
    return kept;
  }

  #seconds(from: number): number {
    return Math.round(performance.now() - from) / 1000;
  }
}

function total(sizes: Sizes): number {
  return Object.values(sizes).reduce((sum: number, rows: number) => sum + rows, 0);
}
