import type { PipelineStatus, StageLag } from '../pipeline/status.ts';
import {
  counter,
  type Family,
  gauge,
  histogramOfSinks,
  type Labels,
  ofSinks,
  type Told,
  unixSeconds,
} from './family.ts';
import type { StoredScore } from './stored.ts';

/** As in the list of dead letters. */
const EVERY_SINK = '*';

const BREAKER_STATES = ['closed', 'open', 'half-open'];

/** Every stage with what it lacks, in the order of the road. */
function stages({ source, sinks }: PipelineStatus): [StageLag, Labels][] {
  return [
    ...(source
      ? ([
          [source.captured, { stage: 'captured' }],
          [source.published, { stage: 'published' }],
        ] as [StageLag, Labels][])
      : []),
    ...sinks.flatMap(({ name, delivered, appliedLsn: lsn, lagBytes, lagSeconds }): [StageLag, Labels][] => [
      [delivered, { stage: 'delivered', sink: name }],
      [
        { lsn, lagBytes, lagSeconds },
        { stage: 'applied', sink: name },
      ],
    ]),
  ];
}

const AGE_WORRY = 'More than you promise to readers; it grows by a second each second where nothing moves.';

/** How far behind the source everything is, true also where nothing is written, or nothing comes any more. */
export const LAG_FAMILIES: readonly Family[] = [
  gauge(
    [
      'waltide_stage_lag_seconds',
      'Age of the oldest commit that a stage lacks, 0 when it has all; absent when unknown.',
      `${AGE_WORRY} The first stage with a lag is the one that holds up the others.`,
    ],
    ['stage', 'sink'],
    ({ status }, add) => {
      for (const [{ lagSeconds }, labels] of stages(status)) if (lagSeconds !== null) add(lagSeconds, labels);
    },
  ),
  gauge(
    ['waltide_stage_lag_bytes', 'WAL between the end of the server and what a stage has.', 'Grows.'],
    ['stage', 'sink'],
    ({ status }, add) => {
      for (const [{ lagBytes }, labels] of stages(status)) add(lagBytes, labels);
    },
  ),
  ofSinks(
    'gauge',
    ['waltide_sink_lag_seconds', 'Age of the oldest commit that is not in the sink; as stage `applied`.', AGE_WORRY],
    (sink) => sink.lagSeconds,
  ),
  ofSinks(
    'gauge',
    ['waltide_sink_lag_bytes', 'WAL between the end of the server and what the sink has saved.', 'Grows.'],
    (sink) => sink.lagBytes,
  ),
  ofSinks(
    'gauge',
    [
      'waltide_sink_heartbeat_round_trip_seconds',
      'What the last heartbeat took from its commit in the source until the sink had applied it, or the one on its way has taken until now; absent in role apply.',
      'More than a second or two while the source is idle.',
    ],
    (sink) => sink.roundTripSeconds,
  ),
  gauge(
    [
      'waltide_sink_table_lag_seconds',
      'Age of the oldest commit that may hold a change of the table which the sink lacks; absent for stopped tables.',
      AGE_WORRY,
    ],
    ['sink', 'table'],
    ({ status: { sinks } }, add) => {
      for (const sink of sinks)
        for (const { name: table, lagSeconds } of sink.tables)
          if (lagSeconds !== null) add(lagSeconds, { sink: sink.name, table });
    },
  ),
  gauge(
    ['waltide_sink_table_lag_bytes', 'WAL from there to the end of the server.', 'Grows.'],
    ['sink', 'table'],
    ({ status: { sinks } }, add) => {
      for (const sink of sinks)
        for (const { name: table, lagBytes } of sink.tables)
          if (lagBytes !== null) add(lagBytes, { sink: sink.name, table });
    },
  ),
  gauge(
    [
      'waltide_sink_table_last_commit_timestamp_seconds',
      'When the newest change of the table that is in the sink was committed, Unix time; absent where none came since the start.',
      'Longer ago than the table is usually written to.',
    ],
    ['sink', 'table'],
    ({ status: { sinks } }, add) => {
      for (const sink of sinks)
        for (const { name: table, lastCommitAt } of sink.tables)
          if (lastCommitAt !== null) add(unixSeconds(lastCommitAt), { sink: sink.name, table });
    },
  ),
];

export const SINK_FAMILIES: readonly Family[] = [
  ofSinks('counter', ['waltide_sink_events_total', 'Events applied.', ''], (sink) => sink.events),
  counter(
    ['waltide_sink_table_events_total', 'Events applied, by table.', ''],
    ['sink', 'table'],
    ({ status }, add) => {
      for (const sink of status.sinks)
        for (const { name: table, events } of sink.tables) add(events, { sink: sink.name, table });
    },
  ),
  ofSinks('counter', ['waltide_sink_batches_total', 'Batches applied.', ''], (sink) => sink.batches),
  histogramOfSinks(
    ['waltide_sink_batch_rows', 'Rows per batch applied.', 'Small ones while the sink lags: see `strategy`.'],
    (sink) => sink.sizes.rows,
  ),
  histogramOfSinks(['waltide_sink_batch_bytes', 'Bytes per batch applied.', ''], (sink) => sink.sizes.bytes),
  histogramOfSinks(
    ['waltide_sink_apply_seconds', 'How long the sink took for a batch.', 'The sum grows by a second each second.'],
    (sink) => sink.sizes.seconds,
  ),
  histogramOfSinks(
    [
      'waltide_sink_commit_delay_seconds',
      'From the commit of the oldest change of a batch in the source until the batch was durable in the sink.',
      'More than you promise to readers.',
    ],
    (sink) => sink.sizes.delaySeconds,
  ),
  ofSinks(
    'gauge',
    ['waltide_sink_pending_events', 'Received and not yet applied.', 'Stays high: the sink is slower than the source.'],
    (sink) => sink.pendingEvents,
  ),
  ofSinks('gauge', ['waltide_sink_pending_bytes', 'Received and not yet applied.', ''], (sink) => sink.pendingBytes),
  ofSinks(
    'counter',
    ['waltide_sink_retries_total', 'Batches tried again after an error.', 'Grows: `waltide status` has the error.'],
    (sink) => sink.retries,
  ),
  gauge(
    [
      'waltide_sink_breaker_state',
      '1 for the state of the circuit breaker: closed, open or half-open.',
      '`open`: the sink failed again and again, and is left alone for a while.',
    ],
    ['sink', 'state'],
    ({ status: { sinks } }, add) => {
      for (const { name, breaker } of sinks)
        for (const state of BREAKER_STATES) add(breaker === state ? 1 : 0, { sink: name, state });
    },
  ),
  ofSinks(
    'counter',
    ['waltide_sink_breaker_opened_total', 'Times the circuit breaker has opened.', 'Grows.'],
    (sink) => sink.breakerOpened,
  ),
  ofSinks(
    'counter',
    [
      'waltide_sink_splits_total',
      'Parts of source transactions made durable before their end: they were larger than transactionBytesMax, or than what DuckDB can hold within memoryLimit.',
      'Grows, where readers must never see half a transaction.',
    ],
    (sink) => sink.splits,
  ),
  ofSinks(
    'gauge',
    ['waltide_sink_stopped_tables', 'Tables that the sink no longer follows.', 'More than 0.'],
    (sink) => sink.stopped.length,
  ),
  ofSinks(
    'gauge',
    [
      'waltide_sink_dead_letters',
      'Rows that are absent, since a column could not hold a value (sinks that keep count of them).',
      'More than 0.',
    ],
    (sink) => sink.losses?.deadLetters ?? null,
  ),
  ofSinks(
    'counter',
    ['waltide_sink_nulled_values_total', 'Values stored as NULL, since a column could not hold them.', 'Grows.'],
    (sink) => sink.losses?.nulled ?? null,
  ),
  ofSinks(
    'gauge',
    ['waltide_sink_text_columns', 'Columns that hold text, since their type could not hold a value.', ''],
    (sink) => sink.losses?.textColumns.length ?? null,
  ),
];

const lettersOf = ({ transport, sinks }: PipelineStatus) => [
  { sink: EVERY_SINK, ...transport.deadLetters },
  ...sinks.map(({ name, deadLetters }) => ({ sink: name, ...deadLetters })),
];

export const LETTER_FAMILIES: readonly Family[] = [
  gauge(
    [
      'waltide_dead_letters',
      'Changes that a sink refused, and nobody has retried or discarded, by table; `*` for those that never came into Kafka.',
      'More than 0: the sink lacks these rows. `waltide dead-letter list` says why.',
    ],
    ['sink', 'table'],
    ({ status }, add) => {
      for (const { sink, tables } of lettersOf(status))
        for (const { name: table, open } of tables) add(open, { sink, table });
    },
    'sum',
  ),
  gauge(
    ['waltide_dead_letters_retrying', 'Of these, waiting to be applied again.', 'Does not fall.'],
    ['sink'],
    ({ status }, add) => {
      for (const { sink, retrying } of lettersOf(status)) if (sink !== EVERY_SINK) add(retrying, { sink });
    },
  ),
  gauge(
    [
      'waltide_dead_letters_oldest_timestamp_seconds',
      'When the oldest open dead letter was written, Unix time; absent where there is none.',
      'Longer ago than anyone has looked.',
    ],
    ['sink'],
    ({ status }, add) => {
      for (const { sink, oldestAt } of lettersOf(status)) if (oldestAt !== null) add(unixSeconds(oldestAt), { sink });
    },
  ),
];

/** Of the tables that a sink has: what was compared once and is gone since says nothing any more. */
const scoreGauge = (told: Told, fold: 'min' | 'max', value: (score: StoredScore) => number): Family =>
  gauge(
    told,
    ['sink', 'table'],
    ({ status: { sinks }, stored }, add) => {
      for (const score of stored?.scores ?? [])
        if (sinks.find(({ name }) => name === score.sink)?.tables.some(({ name }) => name === score.table))
          add(value(score), { sink: score.sink, table: score.table });
    },
    fold,
  );

/** What the last validation of each table found; of one key, or of rows since a time, does not count. */
export const VALIDATION_FAMILIES: readonly Family[] = [
  scoreGauge(
    [
      'waltide_validation_score_ratio',
      'Share of rows that were equal in source and sink, from 0 to 1.',
      'Less than 1: `waltide validate` says which rows differ, and mends them (`--repair`).',
    ],
    'min',
    ({ score }) => score / 100,
  ),
  scoreGauge(
    ['waltide_validation_different_rows', 'Rows that were missing, extra or different.', 'More than 0.'],
    'max',
    ({ differences }) => differences,
  ),
  scoreGauge(
    [
      'waltide_validation_timestamp_seconds',
      'When that was found, Unix time.',
      'Longer ago than its schedule asks for.',
    ],
    'min',
    ({ at }) => unixSeconds(at),
  ),
];
