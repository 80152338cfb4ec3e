import { counter, type Family, gauge, unixSeconds } from './family.ts';

const STATES = ['starting', 'copying', 'streaming', 'resting', 'failed', 'stopping', 'stopped'];

/** The process as a whole, and what every process shares: the write queue and tracked runs. */
export const PROCESS_FAMILIES: readonly Family[] = [
  gauge(
    ['waltide_build_info', 'Always 1; version, role and transport are labels.', ''],
    ['version', 'role', 'transport'],
    ({ status: { version, role, transport } }, add) => add(1, { version, role, transport: transport.type }),
  ),
  gauge(
    ['waltide_state', '1 for the state the pipeline is in.', '`failed`: nothing goes on until a person acts.'],
    ['state'],
    ({ status }, add) => {
      for (const state of STATES) add(status.state === state ? 1 : 0, { state });
    },
  ),
  gauge(
    [
      'waltide_ready',
      '1 once streaming has begun and nothing is stuck or failing.',
      '0 for longer than a start and a first copy take.',
    ],
    [],
    ({ status }, add) => add(status.ready ? 1 : 0),
  ),
  gauge(
    ['waltide_start_timestamp_seconds', 'When the pipeline was started, Unix time.', 'Changes again and again.'],
    [],
    ({ status }, add) => add(unixSeconds(status.startedAt)),
  ),
  gauge(
    [
      'waltide_stuck_stages',
      'Stages that have work and make no progress; more than 0 turns /healthz red.',
      'More than 0: `waltide status` says which.',
    ],
    [],
    ({ status }, add) => add(status.stuck.length),
  ),
  gauge(
    ['waltide_memory_rss_bytes', 'Memory of the process, as the operating system counts it.', 'Grows for days.'],
    [],
    ({ status: { memory } }, add) => add(memory.rssBytes),
  ),
  gauge(
    ['waltide_memory_heap_bytes', 'Of this, JavaScript objects.', 'Grows for days.'],
    [],
    ({ status: { memory } }, add) => add(memory.heapBytes),
  ),
  gauge(
    [
      'waltide_transport_in_flight_bytes',
      'Published and not yet durable.',
      'Stays at `transport.inFlightBytesMax`: a sink, or Kafka, is slower than the source.',
    ],
    [],
    ({ status: { transport } }, add) => add(transport.bytesInFlight),
  ),
  gauge(
    [
      'waltide_control_schema_up',
      '1 where the control schema could be asked for this scrape; where not, metrics that come from it are absent.',
      '0 for longer than a restart of PostgreSQL takes.',
    ],
    [],
    ({ stored }, add) => add(stored ? 1 : 0),
  ),
  gauge(
    ['waltide_instances', 'Processes of Waltide that live, at this source.', 'Fewer than you run.'],
    [],
    ({ stored }, add) => {
      if (stored) add(stored.instances);
    },
  ),
  gauge(
    [
      'waltide_write_queue_operations',
      'Writes that are queued and not made yet; absent where `writes.enabled` is not set.',
      'Grows: the first of them fails again and again, or no process makes them.',
    ],
    [],
    ({ stored }, add) => {
      if (stored?.writes) add(stored.writes.queued);
    },
  ),
  gauge(
    [
      'waltide_write_queue_oldest_timestamp_seconds',
      'When the oldest of these was queued, Unix time; absent where there is none.',
      'Minutes ago.',
    ],
    [],
    ({ stored }, add) => {
      if (stored?.writes?.oldestAt) add(unixSeconds(stored.writes.oldestAt));
    },
  ),
  gauge(
    [
      'waltide_alerts',
      'Alerts that are open, acknowledged or not; absent where there are none.',
      'More than 0: `waltide alerts` says which.',
    ],
    ['slot', 'rule', 'severity'],
    ({ stored }, add) => {
      for (const { rule, severity, open } of stored?.alerts ?? []) add(open, { slot: stored!.slot, rule, severity });
    },
  ),
  counter(
    ['waltide_sync_runs_total', 'Tracked runs that have ended, in whichever process.', 'state `error` grows.'],
    ['sync_type', 'state'],
    ({ stored }, add) => {
      for (const { syncType, successes, failures } of stored?.syncTypes ?? []) {
        add(successes, { sync_type: syncType, state: 'success' });
        add(failures, { sync_type: syncType, state: 'error' });
      }
    },
  ),
  gauge(
    ['waltide_sync_running', '1 while a run of this sync type is under way.', '1 for longer than such a run takes.'],
    ['sync_type'],
    ({ stored }, add) => {
      for (const { syncType, status } of stored?.syncTypes ?? [])
        add(status === 'in_progress' ? 1 : 0, { sync_type: syncType });
    },
  ),
  gauge(
    [
      'waltide_sync_last_success_timestamp_seconds',
      'When a run of this sync type last succeeded, Unix time; absent before the first.',
      'Longer ago than its schedule asks for.',
    ],
    ['sync_type'],
    ({ stored }, add) => {
      for (const { syncType, lastSyncAt } of stored?.syncTypes ?? [])
        if (lastSyncAt) add(unixSeconds(lastSyncAt), { sync_type: syncType });
    },
  ),
];
