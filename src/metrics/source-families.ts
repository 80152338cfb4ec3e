import { BUDGET_LEVELS, type BudgetStatus, type CaptureStatus } from '../pipeline/status.ts';
import { counter, type Family, gauge, histogramOfSource, ofSource, type Told, unixSeconds } from './family.ts';

type Protocol = NonNullable<CaptureStatus['protocol']>;

const ofBudget = (told: Told, value: (budget: BudgetStatus) => number | null): Family =>
  ofSource('gauge', told, ({ budget }) => budget && value(budget));
const ofProtocol = (told: Told, value: (protocol: Protocol) => number): Family =>
  ofSource('gauge', told, ({ protocol }) => protocol && value(protocol));

/** From the slot to the transport; absent in role apply. */
export const SOURCE_FAMILIES: readonly Family[] = [
  ofSource(
    'counter',
    ['waltide_source_events_total', 'Events read from the slot or copied.', ''],
    (source) => source.events,
  ),
  ofSource('counter', ['waltide_source_bytes_total', 'Bytes of these events.', ''], (source) => source.bytes),
  ofSource('counter', ['waltide_source_batches_total', 'Batches of events.', ''], (source) => source.batches),
  histogramOfSource(
    ['waltide_source_batch_rows', 'Events per batch, as they came from the source.', ''],
    (source) => source.sizes.rows,
  ),
  histogramOfSource(
    ['waltide_source_batch_bytes', 'Bytes per batch, as they came from the source.', ''],
    (source) => source.sizes.bytes,
  ),
  ofSource(
    'counter',
    ['waltide_source_reconnects_total', 'Times the replication connection was opened again.', 'Grows by the minute.'],
    (source) => source.reconnects,
  ),
  ofSource(
    'gauge',
    ['waltide_source_connected', '1 while the replication connection is open.', '0 for minutes.'],
    (source) => (source.connected ? 1 : 0),
  ),
  ofSource(
    'gauge',
    [
      'waltide_source_last_message_timestamp_seconds',
      'When the server last sent anything, Unix time.',
      'Minutes ago, though it is connected: it sends keepalives at half of wal_sender_timeout.',
    ],
    (source) => (source.lastMessageAt === null ? null : unixSeconds(source.lastMessageAt)),
  ),
  ofProtocol(
    [
      'waltide_source_open_transactions',
      'Transactions in progress that are gathered (`source.protocol.streaming`).',
      '',
    ],
    (protocol) => protocol.openTransactions,
  ),
  ofProtocol(
    ['waltide_source_open_transactions_memory_bytes', 'Memory that they take.', 'Stays at `memoryBytesMax`.'],
    (protocol) => protocol.memoryBytes,
  ),
  ofProtocol(
    ['waltide_source_open_transactions_spilled_bytes', 'What of them is in files under `stateDir`.', 'The disk fills.'],
    (protocol) => protocol.spilledBytes,
  ),
  ofSource(
    'gauge',
    [
      'waltide_slot_lag_bytes',
      'WAL between the end of the server and what is durable downstream.',
      'Grows though the source is idle.',
    ],
    (source) => source.lagBytes,
  ),
  ofSource(
    'gauge',
    ['waltide_slot_held_bytes', 'WAL that is durable downstream and held back on purpose (source.retain).', ''],
    (source) => source.heldBytes,
  ),
  ofBudget(
    ['waltide_slot_retained_bytes', 'WAL that the server keeps for the slot.', 'See `waltide_wal_budget_level`.'],
    (budget) => budget.retainedBytes,
  ),
  ofBudget(
    [
      'waltide_wal_budget_bytes',
      'Most WAL that the server may keep for the slot; absent where nothing bounds it.',
      'Absent: a sink that is down fills the disk of the source.',
    ],
    (budget) => budget.budgetBytes,
  ),
  ofBudget(
    [
      'waltide_wal_budget_safe_bytes',
      'WAL that can still be written before the budget is used up.',
      'Falls towards 0: the slot is lost there, and everything is copied again.',
    ],
    (budget) => budget.safeBytes,
  ),
  ofBudget(
    [
      'waltide_wal_budget_seconds_left',
      'Until the budget is used up at the present rate; absent where what is retained does not grow.',
      'Less than you need to get to a keyboard.',
    ],
    (budget) => budget.secondsLeft,
  ),
  ofBudget(['waltide_wal_bytes_per_second', 'WAL that the server writes.', ''], (budget) => budget.walBytesPerSecond),
  gauge(
    ['waltide_wal_budget_level', '1 for the level of the WAL budget.', '`warning`; `critical` and `lost` at once.'],
    ['slot', 'level'],
    ({ status: { source } }, add) => {
      if (source?.budget)
        for (const level of BUDGET_LEVELS) add(source.budget.level === level ? 1 : 0, { slot: source.slot, level });
    },
  ),
  counter(
    ['waltide_snapshot_rows_total', 'Rows read by the last snapshot of a table; from 0 again with each.', ''],
    ['table', 'kind'],
    ({ status: { copy } }, add) => {
      for (const { table, kind, rows } of copy) add(rows, { table, kind });
    },
  ),
  counter(
    ['waltide_snapshot_bytes_total', 'Bytes of these rows, as the server sent them.', ''],
    ['table', 'kind'],
    ({ status: { copy } }, add) => {
      for (const { table, kind, bytes } of copy) add(bytes, { table, kind });
    },
  ),
  gauge(
    [
      'waltide_snapshot_rows_estimated',
      "The planner's guess at how many rows there are; absent where it has none.",
      '',
    ],
    ['table', 'kind'],
    ({ status: { copy } }, add) => {
      for (const { table, kind, estimatedRows } of copy) if (estimatedRows > 0) add(estimatedRows, { table, kind });
    },
  ),
  gauge(
    [
      'waltide_snapshot_seconds_left',
      'How long it takes still, at its rate until now; absent where that is not known.',
      'Does not fall.',
    ],
    ['table', 'kind'],
    ({ status: { copy } }, add) => {
      for (const { table, kind, secondsLeft } of copy) if (secondsLeft !== null) add(secondsLeft, { table, kind });
    },
  ),
  gauge(
    [
      'waltide_snapshot_state',
      '1 for the state that the last snapshot of a table is in: running, paused, completed, cancelled or failed.',
      '`failed`; `paused` without anyone who has asked for it.',
    ],
    ['table', 'kind', 'state'],
    ({ status: { copy } }, add) => {
      for (const { table, kind, state } of copy) add(1, { table, kind, state });
    },
  ),
];
