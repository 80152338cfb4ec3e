import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Config } from '../config/schema.ts';
import { messageOf, WaltideError } from '../errors.ts';
import { relationName } from '../event/relation.ts';
import type { Log } from '../log.ts';
import type { PublishedTable } from '../postgres/publication.ts';
import { connectSource } from '../postgres/session.ts';
import type { KeyText } from '../postgres/snapshots.ts';
import {
  beginValidation,
  endValidation,
  saveValidationResult,
  type ValidationResultRecord,
  validationResults,
} from '../postgres/validations.ts';
import { brokenReferences } from './references.ts';
import { repair } from './repair.ts';
import {
  CHECKS,
  type TableResult,
  type ValidationProgress,
  type ValidationReport,
  type ValidationRequest,
} from './report.ts';
import { checkRequest, chooseTables, describe, isNamed, looksAtRows, requestOf } from './request.ts';
import { checkRules } from './rules.ts';
import type { Treatment, ValidatedSink, ValidationRun } from './run.ts';
import { SourceReader } from './source.ts';
import { listSourceTables, relationOf, type SourceTable } from './source-table.ts';
import { TableRun } from './table-run.ts';

/** Differences that a report and its record hold; all are counted, and repaired. */
const SHOWN_MAX = 1000;
const ATTEMPTS_MAX = 8;
const ATTEMPT_AGAIN_MS = 250;

export interface ValidatorOptions {
  readonly config: Config;
  readonly sinks: readonly ValidatedSink[];
  readonly treatment: Treatment;
  readonly log: Log;
}

export interface ValidationWatch {
  readonly signal: AbortSignal;
  readonly onProgress?: (progress: ValidationProgress) => void;
  /** The id under which it is recorded, known at once. */
  readonly onBegin?: (id: string) => void;
}

/** Compares sinks with the source while both go on, and brings what differs into line where that is asked for. */
export class Validator {
  readonly #options: ValidatorOptions;

  constructor(options: ValidatorOptions) {
    this.#options = options;
  }

  /**
   * Resolves with what was found, which is recorded in schema `waltide` too. Rejects with USAGE for what cannot be
   * compared, with VALIDATION where it could not be finished, and with the signal's reason.
   */
  async run(asked: ValidationRequest, watch: ValidationWatch): Promise<ValidationReport> {
    const { config, log, treatment } = this.#options;
    const begun = performance.now();
    const control = await connectSource(config.source, 'validation control');
    const source = new SourceReader(() => connectSource(config.source, 'validation'), config.validation.workers);
    const id = asked.resume ?? randomBytes(6).toString('hex');
    try {
      const request = asked.resume === undefined ? asked : { ...(await requestOf(control, config, id)), resume: id };
      checkRequest(request, config);
      await beginValidation(control, id, config.source.slot, request);
      watch.onBegin?.(id);
      const onProgress = watch.onProgress ?? (() => {});
      const run = { id, config, request, source, treatment, control, log, signal: watch.signal, onProgress };
      try {
        const report = await this.#all(run, begun);
        const { references, rules, leftOut } = report;
        await endValidation(control, id, { state: 'completed', ...report, report: { references, rules, leftOut } });
        return report;
      } catch (error) {
        const state = watch.signal.aborted ? 'cancelled' : 'failed';
        await endValidation(control, id, { state, error: messageOf(error) }).catch(() => {});
        throw error;
      }
    } finally {
      await source.close();
      await control.end().catch(() => {});
    }
  }

  /**
   * Rejects with USAGE where `run` would, as far as that can be told without reading rows: for whoever would rather refuse
   * than begin.
   */
  async check(asked: ValidationRequest): Promise<void> {
    const { config, treatment } = this.#options;
    const control = await connectSource(config.source, 'validation check');
    try {
      const request = asked.resume === undefined ? asked : await requestOf(control, config, asked.resume);
      checkRequest(request, config);
      const [sink] = this.#sinks(request.sinks);
      const chosen = chooseTables(await listSourceTables(control, config.source.publication), request.tables ?? []);
      const narrowed = request.key ?? request.since ?? request.sample;
      if (!sink || narrowed === undefined || !looksAtRows(request)) return;
      for (const published of chosen) {
        const relation = await relationOf(control, published);
        if (treatment.refuses(relation) === null)
          await describe({ config, request, control, treatment }, sink, published, relation);
      }
    } catch (error) {
      // What may pass by itself is the run's to see to.
      if (!(error instanceof WaltideError) || !error.retry) throw error;
    } finally {
      await control.end().catch(() => {});
    }
  }

  async #all(run: ValidationRun, begun: number): Promise<ValidationReport> {
    const { request, control, config } = run;
    const checks = new Set(request.checks ?? CHECKS);
    const published = await listSourceTables(control, config.source.publication);
    const chosen = chooseTables(published, request.tables ?? []);
    const sinks = this.#sinks(request.sinks);
    const before = request.resume ? await validationResults<TableResult>(control, run.id) : [];
    const tables: TableResult[] = [];
    const leftOut: ValidationReport['leftOut'][number][] = [];
    for (const sink of looksAtRows(request) ? sinks : [])
      for (const table of chosen) {
        const result = await this.#steadily(run, sink, table, before);
        if ('why' in result) leftOut.push({ sink: sink.name, table: relationName(table), ...result });
        else tables.push(result);
      }
    const references = checks.has('referential_integrity') ? await brokenReferences(run, sinks, published, chosen) : [];
    const rules = checks.has('business_rules') ? await checkRules(run, sinks) : [];
    const equal = tables.every(({ missing, extra, different }) => missing + extra + different === 0);
    const compared = leftOut.every(({ table, meant }) => meant && !isNamed(table, request.tables ?? []));
    return {
      id: run.id,
      ok: equal && compared && references.length === 0 && rules.every(({ holds }) => holds),
      score: Math.min(100, ...tables.map(({ score }) => score)),
      tables,
      references,
      rules,
      leftOut,
      durationMs: Math.round(performance.now() - begun),
    };
  }

  #sinks(names: readonly string[] | undefined): ValidatedSink[] {
    const all = this.#options.sinks;
    for (const name of names ?? [])
      if (!all.some((sink) => sink.name === name))
        throw new WaltideError(
          'USAGE',
          `no sink "${name}" that can be compared is open`,
          `There are: ${all.map((sink) => sink.name).join(', ') || 'none'}.`,
        );
    return all.filter(({ name }) => names === undefined || names.length === 0 || names.includes(name));
  }

  /** As `#table`, once more where the table, the sink or a connection was not what it was before. */
  async #steadily(
    run: ValidationRun,
    sink: ValidatedSink,
    published: PublishedTable,
    before: readonly ValidationResultRecord<TableResult>[],
  ): Promise<TableResult | NotCompared> {
    let done = before;
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#table(run, sink, published, done);
      } catch (error) {
        run.signal.throwIfAborted();
        if (attempt === ATTEMPTS_MAX || !(error instanceof WaltideError) || !error.retry) throw error;
        run.log.info({ sink: sink.name, table: relationName(published) }, `${error.message}; comparing it again`);
        await sleep(ATTEMPT_AGAIN_MS * attempt, undefined, { signal: run.signal });
        done = await validationResults<TableResult>(run.control, run.id);
      }
    }
  }

  /** Why not, where it cannot be compared. */
  async #table(
    run: ValidationRun,
    sink: ValidatedSink,
    published: PublishedTable,
    before: readonly ValidationResultRecord<TableResult>[],
  ): Promise<TableResult | NotCompared> {
    const done = before.find((one) => one.sink === sink.name && one.table === relationName(published));
    if (done?.finished) return done.result;
    const relation = await relationOf(run.control, published);
    const refused = run.treatment.refuses(relation);
    if (refused !== null) return { why: refused, meant: true };
    const table = await describe(run, sink, published, relation);
    if (!table) return { why: 'the sink does not hold it, or follows it no more', meant: false };
    const begin = (earlier: TableResult | null): TableRun =>
      new TableRun({
        source: run.source,
        sinkName: sink.name,
        sink: sink.digests,
        table,
        passed: (lsn) => sink.passed(lsn, run.signal),
        signal: run.signal,
        rowsPerSecondMax: run.request.rowsPerSecondMax ?? run.config.validation.rowsPerSecondMax ?? null,
        differencesMax: run.config.validation.differencesMax,
        onProgress: run.onProgress,
        onCursor: (cursor, result) => saveValidationResult(run.control, run.id, cursor, result),
        before: earlier,
      });
    const first = begin(done?.result ?? null);
    await compare(run, table, first, done?.cursor ?? null);
    let result = first.result();
    if (run.request.repair && result.missing + result.extra + result.different > 0)
      result = await repair(run, sink, table, result, begin, (again) => compare(run, table, again, null));
    // A truncated list could not be shown as what differs; the counts tell.
    result = { ...result, differences: result.differences.slice(0, SHOWN_MAX) };
    await saveValidationResult(run.control, run.id, null, result);
    return result;
  }
}

type NotCompared = Pick<ValidationReport['leftOut'][number], 'why' | 'meant'>;

async function compare(
  { request, source }: ValidationRun,
  table: SourceTable,
  run: TableRun,
  cursor: KeyText | null,
): Promise<void> {
  if (request.key) await run.compareKeys([await source.printedKey(table, request.key)]);
  else if (request.sample !== undefined) await run.compareKeys(await source.sample(table, request.sample));
  else await run.compare(cursor);
}
