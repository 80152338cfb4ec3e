import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client';
import { BUDGET_LEVELS, type BudgetStatus, type PipelineStatus } from '../pipeline/status.ts';

type Labels = Record<string, string>;

/** One family of samples, taken anew from the status at every scrape. */
interface Family {
  readonly name: string;
  readonly help: string;
  readonly type: 'counter' | 'gauge';
  readonly labels: readonly string[];
  sample(status: PipelineStatus, add: (value: number, labels?: Labels) => void): void;
}

const SINK = ['sink'];

const FAMILIES: readonly Family[] = [
  {
    name: 'waltide_build_info',
    help: 'Always 1; version and role are labels.',
    type: 'gauge',
    labels: ['version', 'role', 'transport'],
    sample: ({ version, role, transport }, add) => add(1, { version, role, transport: transport.type }),
  },
  {
    name: 'waltide_state',
    help: '1 for the state the pipeline is in.',
    type: 'gauge',
    labels: ['state'],
    sample: (status, add) => {
      for (const state of ['starting', 'copying', 'streaming', 'failed', 'stopping', 'stopped'])
        add(status.state === state ? 1 : 0, { state });
    },
  },
  {
    name: 'waltide_ready',
    help: '1 once streaming has begun and nothing is stuck or failing.',
    type: 'gauge',
    labels: [],
    sample: (status, add) => add(status.ready ? 1 : 0),
  },
  {
    name: 'waltide_stuck_stages',
    help: 'Stages that have work and make no progress; more than 0 turns /healthz red.',
    type: 'gauge',
    labels: [],
    sample: (status, add) => add(status.stuck.length),
  },
  sourceFamily(
    'waltide_source_events_total',
    'counter',
    'Events read from the slot or copied.',
    (source) => source.events,
  ),
  sourceFamily('waltide_source_bytes_total', 'counter', 'Bytes of events read.', (source) => source.bytes),
  sourceFamily(
    'waltide_source_reconnects_total',
    'counter',
    'Times the replication connection was opened again.',
    (source) => source.reconnects,
  ),
  sourceFamily('waltide_source_connected', 'gauge', '1 while the replication connection is open.', (source) =>
    source.connected ? 1 : 0,
  ),
  sourceFamily(
    'waltide_slot_lag_bytes',
    'gauge',
    'WAL between the end of the server and what is durable downstream.',
    (source) => source.lagBytes,
  ),
  sourceFamily(
    'waltide_slot_held_bytes',
    'gauge',
    'WAL that is durable downstream and held back on purpose (source.retain).',
    (source) => source.heldBytes,
  ),
  budgetFamily(
    'waltide_slot_retained_bytes',
    'WAL that the server keeps for the slot.',
    (budget) => budget.retainedBytes,
  ),
  budgetFamily(
    'waltide_wal_budget_bytes',
    'Most WAL that the server may keep for the slot; absent where nothing bounds it.',
    (budget) => budget.budgetBytes,
  ),
  budgetFamily(
    'waltide_wal_budget_safe_bytes',
    'WAL that can still be written before the budget is used up.',
    (budget) => budget.safeBytes,
  ),
  budgetFamily(
    'waltide_wal_budget_seconds_left',
    'Until the budget is used up at the present rate; absent where what is retained does not grow.',
    (budget) => budget.secondsLeft,
  ),
  budgetFamily('waltide_wal_bytes_per_second', 'WAL that the server writes.', (budget) => budget.walBytesPerSecond),
  {
    name: 'waltide_wal_budget_level',
    help: '1 for the level of the WAL budget.',
    type: 'gauge',
    labels: ['slot', 'level'],
    sample: ({ source }, add) => {
      if (source?.budget)
        for (const level of BUDGET_LEVELS) add(source.budget.level === level ? 1 : 0, { slot: source.slot, level });
    },
  },
  sourceFamily(
    'waltide_source_last_message_timestamp_seconds',
    'gauge',
    'When the server last sent anything, Unix time.',
    (source) => (source.lastMessageAt === null ? null : Date.parse(source.lastMessageAt) / 1000),
  ),
  {
    name: 'waltide_transport_in_flight_bytes',
    help: 'Published and not yet durable.',
    type: 'gauge',
    labels: [],
    sample: ({ transport }, add) => add(transport.bytesInFlight),
  },
  sinkFamily('waltide_sink_events_total', 'counter', 'Events applied.', (sink) => sink.events),
  sinkFamily('waltide_sink_batches_total', 'counter', 'Batches applied.', (sink) => sink.batches),
  sinkFamily('waltide_sink_retries_total', 'counter', 'Batches tried again after an error.', (sink) => sink.retries),
  sinkFamily(
    'waltide_sink_splits_total',
    'counter',
    'Parts of source transactions made durable before their end: they were larger than transactionBytesMax.',
    (sink) => sink.splits,
  ),
  sinkFamily(
    'waltide_sink_lag_bytes',
    'gauge',
    'WAL between the end of the server and what the sink has saved.',
    (sink) => sink.lagBytes,
  ),
  sinkFamily(
    'waltide_sink_lag_seconds',
    'gauge',
    'Age of the oldest commit that is not in the sink.',
    (sink) => sink.lagSeconds,
  ),
  sinkFamily('waltide_sink_pending_events', 'gauge', 'Received and not yet applied.', (sink) => sink.pendingEvents),
  sinkFamily('waltide_sink_pending_bytes', 'gauge', 'Received and not yet applied.', (sink) => sink.pendingBytes),
  sinkFamily(
    'waltide_sink_stopped_tables',
    'gauge',
    'Tables that the sink no longer follows.',
    (sink) => sink.stopped.length,
  ),
  sinkFamily(
    'waltide_sink_dead_letters',
    'gauge',
    'Rows that are absent, since a column could not hold a value.',
    (sink) => sink.losses?.deadLetters ?? null,
  ),
  {
    name: 'waltide_dead_letters',
    help: 'Changes that the sink refused, and nobody has retried or discarded, by table.',
    type: 'gauge',
    labels: ['sink', 'table'],
    sample: ({ sinks }, add) => {
      for (const { name, deadLetters } of sinks)
        for (const { name: table, open } of deadLetters.tables) add(open, { sink: name, table });
    },
  },
  sinkFamily(
    'waltide_dead_letters_oldest_timestamp_seconds',
    'gauge',
    'When the oldest open dead letter was written, Unix time; absent where there is none.',
    ({ deadLetters: { oldestAt } }) => (oldestAt === null ? null : Date.parse(oldestAt) / 1000),
  ),
  {
    name: 'waltide_sink_breaker_state',
    help: '1 for the state of the circuit breaker.',
    type: 'gauge',
    labels: ['sink', 'state'],
    sample: ({ sinks }, add) => {
      for (const { name, breaker } of sinks)
        for (const state of ['closed', 'open', 'half-open']) add(breaker === state ? 1 : 0, { sink: name, state });
    },
  },
  sinkFamily(
    'waltide_sink_nulled_values_total',
    'counter',
    'Values stored as NULL, since a column could not hold them.',
    (sink) => sink.losses?.nulled ?? null,
  ),
  sinkFamily(
    'waltide_sink_text_columns',
    'gauge',
    'Columns that hold text, since their type could not hold a value.',
    (sink) => sink.losses?.textColumns.length ?? null,
  ),
  {
    name: 'waltide_sink_table_events_total',
    help: 'Events applied, by table.',
    type: 'counter',
    labels: ['sink', 'table'],
    sample: ({ sinks }, add) => {
      for (const sink of sinks)
        for (const table of sink.tables) add(table.events, { sink: sink.name, table: table.name });
    },
  },
  {
    name: 'waltide_snapshot_rows_total',
    help: 'Rows read by the first copy and by later snapshots, by table; from 0 again with each.',
    type: 'counter',
    labels: ['table', 'kind'],
    sample: ({ copy }, add) => {
      for (const { table, kind, rows } of copy) add(rows, { table, kind });
    },
  },
  {
    name: 'waltide_snapshot_bytes_total',
    help: 'Bytes of these rows, as the server sent them.',
    type: 'counter',
    labels: ['table', 'kind'],
    sample: ({ copy }, add) => {
      for (const { table, kind, bytes } of copy) add(bytes, { table, kind });
    },
  },
  {
    name: 'waltide_snapshot_rows_estimated',
    help: "The planner's guess at how many rows there are.",
    type: 'gauge',
    labels: ['table', 'kind'],
    sample: ({ copy }, add) => {
      for (const { table, kind, estimatedRows } of copy) if (estimatedRows > 0) add(estimatedRows, { table, kind });
    },
  },
  {
    name: 'waltide_snapshot_seconds_left',
    help: 'How long it takes still, at its rate until now; without a sample where that is not known.',
    type: 'gauge',
    labels: ['table', 'kind'],
    sample: ({ copy }, add) => {
      for (const { table, kind, secondsLeft } of copy) if (secondsLeft !== null) add(secondsLeft, { table, kind });
    },
  },
  {
    name: 'waltide_snapshot_state',
    help: '1 for the state that the last snapshot of a table is in.',
    type: 'gauge',
    labels: ['table', 'kind', 'state'],
    sample: ({ copy }, add) => {
      for (const { table, kind, state } of copy) add(1, { table, kind, state });
    },
  },
];

function sourceFamily(
  name: string,
  type: Family['type'],
  help: string,
  value: (source: NonNullable<PipelineStatus['source']>) => number | null,
): Family {
  return {
    name,
    type,
    help,
    labels: ['slot'],
    sample: ({ source }, add) => {
      const sampled = source && value(source);
      if (source && sampled !== null) add(sampled, { slot: source.slot });
    },
  };
}

function budgetFamily(name: string, help: string, value: (budget: BudgetStatus) => number | null): Family {
  return sourceFamily(name, 'gauge', help, ({ budget }) => budget && value(budget));
}

function sinkFamily(
  name: string,
  type: Family['type'],
  help: string,
  value: (sink: PipelineStatus['sinks'][number]) => number | null,
): Family {
  return {
    name,
    type,
    help,
    labels: SINK,
    sample: ({ sinks }, add) => {
      for (const sink of sinks) {
        const sampled = value(sink);
        if (sampled !== null) add(sampled, { sink: sink.name });
      }
    },
  };
}

/** A registry of its own, so that a library user's metrics stay theirs. Every scrape reads `status` once. */
export function createMetrics(status: () => PipelineStatus): { readonly contentType: string; read(): Promise<string> } {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const metrics = FAMILIES.map((family) => {
    const options = { name: family.name, help: family.help, labelNames: [...family.labels], registers: [registry] };
    return { family, metric: family.type === 'counter' ? new Counter(options) : new Gauge(options) };
  });
  return {
    contentType: registry.contentType,
    read: () => {
      const picture = status();
      for (const { family, metric } of metrics) {
        metric.reset();
        family.sample(picture, (value, labels) => (labels ? metric.inc(labels, value) : metric.inc(value)));
      }
      return registry.metrics();
    },
  };
}
