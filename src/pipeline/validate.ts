import type pg from 'pg';
import type { Config } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import { formatLsn, type Lsn } from '../event/lsn.ts';
import type { Log } from '../log.ts';
import { queryError } from '../postgres/connection.ts';
import { readSlotRecord } from '../postgres/control.ts';
import { connectSource, withSession } from '../postgres/session.ts';
import { loadProtection, type Protection } from '../protect/protection.ts';
import { queryAsItLeaves, refusalOf } from '../protect/query.ts';
import { WATERMARK_PREFIX } from '../snapshot/snapshot.ts';
import type { ValidationReport, ValidationRequest } from '../validation/report.ts';
import type { Treatment, ValidatedSink } from '../validation/run.ts';
import { listSourceTables } from '../validation/source-table.ts';
import { type ValidationWatch, Validator } from '../validation/validator.ts';
import type { Applier } from './applier.ts';
import type { Arrival, Arrivals } from './arrivals.ts';
import { busy } from './wait.ts';

/** A stream that flows passes by itself within this. */
const PATIENCE_MS = 20;
/** A sink that has not moved for so long does not follow. */
const STANDSTILL_MS = 60_000;

export interface ValidateParts {
  readonly config: Config;
  readonly appliers: readonly Pick<Applier, 'sink'>[];
  readonly arrivals: Arrivals;
  readonly log: Log;
}

/** Compares the open sinks with the source; see Validator.run. */
export async function validateSinks(
  request: ValidationRequest,
  watch: ValidationWatch,
  parts: ValidateParts,
): Promise<ValidationReport> {
  return withValidator(parts, (validator) => validator.run(request, watch));
}

/** Rejects as `validateSinks` would for what cannot be compared; see Validator.check. */
export async function checkValidation(request: ValidationRequest, parts: ValidateParts): Promise<void> {
  await withValidator(parts, (validator) => validator.check(request));
}

async function withValidator<T>(
  { config, appliers, arrivals, log }: ValidateParts,
  work: (validator: Validator) => Promise<T>,
): Promise<T> {
  if (appliers.length === 0) throw busy('no sink is open');
  const nudge = new Nudge(config);
  const sinks = appliers.flatMap(({ sink }): ValidatedSink[] => {
    if (!sink.digests) return [];
    const passed = (lsn: Lsn, signal: AbortSignal): Promise<void> => reach(sink.name, lsn, arrivals, nudge, signal);
    return [{ name: sink.name, digests: sink.digests, passed, ...(sink.query && { query: sink.query.bind(sink) }) }];
  });
  try {
    return await work(new Validator({ config, sinks, log, treatment: await treatmentOf(config) }));
  } finally {
    await nudge.close();
  }
}

/** As the capture has it: a rule goes on meaning a column that was renamed since. */
async function protectionOf(source: Config['source']): Promise<Protection> {
  const protection = await loadProtection(source);
  if (protection.idle) return protection;
  await withSession(source, 'validation', async (client) => {
    const published = await listSourceTables(client, source.publication);
    const captured = (await readSlotRecord(client, source.slot))?.tables ?? [];
    await protection.learn(client, published, (oid) => captured.find((table) => table.oid === oid));
  });
  return protection;
}

/** The key of a masked table would have an order of its own in the sink, and pair with no row of the source. */
async function treatmentOf({ source }: Config): Promise<Treatment> {
  const protection = await protectionOf(source);
  return {
    query: (client, query) => queryAsItLeaves(client, protection, query),
    refusalOf: (error) => refusalOf(protection, error),
    refuses: (relation) => {
      if (protection.transforms(relation)) return 'source.transforms gives it other rows or columns';
      const key = relation.key.find((index) => protection.hides(relation, index));
      return key === undefined ? null : `column "${relation.columns[key]!.name}" of its key is masked`;
    },
    maskOf: (relation, column) => {
      const index = relation.columns.findIndex(({ name }) => name === column);
      return protection.hides(relation, index) ? (text) => protection.maskText(relation, column, text) ?? '' : null;
    },
  };
}

async function reach(sink: string, lsn: Lsn, arrivals: Arrivals, nudge: Nudge, signal: AbortSignal): Promise<void> {
  const wait = (timeoutMs: number): Promise<Arrival> => arrivals.wait(lsn, { sinks: [sink], timeoutMs, signal });
  for (let { reached, sinks } = await wait(PATIENCE_MS); !reached; ) {
    signal.throwIfAborted();
    await nudge.give();
    const [before] = sinks;
    ({ reached, sinks } = await wait(STANDSTILL_MS));
    if (reached || sinks[0]!.appliedLsn !== before!.appliedLsn) continue;
    signal.throwIfAborted();
    throw new WaltideError(
      'VALIDATION',
      `sink ${sink} stands at ${formatLsn(before!.appliedLsn)} and does not come to ${formatLsn(lsn)}`,
      'See `waltide status` for what holds it up, then validate again.',
    );
  }
}

/** Lets an idle stream come past an LSN at once: a message that nobody waits for. */
class Nudge {
  readonly #config: Config;
  #client: pg.Client | null = null;

  constructor(config: Config) {
    this.#config = config;
  }

  async give(): Promise<void> {
    try {
      if (!this.#client) {
        this.#client = await connectSource(this.#config.source, 'validation nudge');
        await this.#client.query('SET synchronous_commit = local');
      }
      await this.#client.query('SELECT pg_catalog.pg_logical_emit_message(true, $1, $2)', [WATERMARK_PREFIX, 'nudge']);
    } catch (error) {
      await this.close();
      throw queryError(error, 'writing a message into the WAL');
    }
  }

  async close(): Promise<void> {
    const client = this.#client;
    this.#client = null;
    await client?.end().catch(() => {});
  }
}
