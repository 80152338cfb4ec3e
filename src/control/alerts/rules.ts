import type { PipelineState, SinkStatus } from '../../pipeline/status.ts';
import type { AlertRule, Finding, RuleKey, View } from './rule.ts';
import { slotAtRisk } from './slot-rule.ts';
import { span } from './words.ts';

/** Where sinks are there to be looked at. */
const WITH_SINKS: readonly PipelineState[] = ['copying', 'streaming', 'resting', 'failed'];

function eachSink({ status }: View, find: (sink: SinkStatus) => Omit<Finding, 'subject'> | null): Finding[] {
  if (!status || !WITH_SINKS.includes(status.state)) return [];
  return status.sinks.flatMap((sink) => {
    const found = find(sink);
    return found ? [{ subject: sink.name, ...found }] : [];
  });
}

const sinkLag: AlertRule<'sinkLag'> = {
  name: 'sink_lag',
  key: 'sinkLag',
  subjects: 'a sink',
  holds: 'the oldest commit that the sink lacks is older than `minutesMax`; not while the source is merely idle',
  unseen: 'expires',
  find: (view, { minutesMax }) =>
    eachSink(view, ({ name, lagSeconds, lagBytes }) => {
      // During the first copy nothing is behind yet, and what rests is meant to be.
      if (lagSeconds === null || view.status?.state === 'copying' || view.status?.state === 'resting') return null;
      // Of a source that is connected and says nothing, nothing is lacking; nor where nobody asks it by heartbeats.
      const { source } = view.status!;
      const idle = lagBytes === 0 && (source ? source.connected : view.config.source.heartbeatIntervalMs === 0);
      const summary = `sink "${name}" is ${span(lagSeconds)} behind the source`;
      const threshold = minutesMax * 60;
      return { active: lagSeconds > threshold && !idle, value: lagSeconds, threshold, summary };
    }),
  prometheus: ({ minutesMax }) => [
    {
      alert: 'WaltideSinkLag',
      expr: `waltide_sink_lag_seconds > ${minutesMax * 60}`,
      summary: 'Sink {{ $labels.sink }} is {{ $value | humanizeDuration }} behind the source.',
    },
    {
      alert: 'WaltideSourceDisconnected',
      expr: 'waltide_source_connected == 0 unless on (job, instance) waltide_state{state="resting"} == 1',
      forMs: minutesMax * 60_000,
      summary: 'The replication connection of slot {{ $labels.slot }} is not open.',
    },
  ],
};

const consistencyScore: AlertRule<'consistencyScore'> = {
  name: 'consistency_score',
  key: 'consistencyScore',
  subjects: '`sink: schema.table`',
  holds:
    'the last validation of the table (of all its data: no count, key, sample or time) found fewer than `scoreMin` percent of its rows equal',
  unseen: 'stays',
  find: ({ scores }, { scoreMin }) =>
    scores.map(({ sink, table, score, at }) => ({
      subject: `${sink}: ${table}`,
      active: score < scoreMin,
      ...{ value: score, threshold: scoreMin },
      summary: `${score} % of the rows of ${table} in sink "${sink}" equal the source, as of ${at.toISOString()}`,
    })),
  prometheus: ({ scoreMin }) => [
    {
      alert: 'WaltideConsistencyScore',
      expr: `waltide_validation_score_ratio < ${scoreMin / 100}`,
      summary:
        'Of the rows of {{ $labels.table }} in {{ $labels.sink }}, {{ $value | humanizePercentage }} equal the source.',
    },
  ],
};

const deadLetters: AlertRule<'deadLetters'> = {
  name: 'dead_letters',
  key: 'deadLetters',
  subjects: 'a sink',
  holds: 'more than `openMax` dead letters of the sink are open',
  unseen: 'clear',
  find: ({ letters }, { openMax }) =>
    letters.map(({ sink, open }) => ({
      ...{ subject: sink, active: open > openMax, value: open, threshold: openMax },
      summary: `sink "${sink}" has ${open} open dead letters`,
    })),
  prometheus: ({ openMax }) => [
    {
      alert: 'WaltideDeadLetters',
      expr: `sum without (table) (waltide_dead_letters) > ${openMax}`,
      summary: 'Sink {{ $labels.sink }} has {{ $value }} open dead letters.',
    },
  ],
};

const syncFailed: AlertRule<'syncFailed'> = {
  name: 'sync_failed',
  key: 'syncFailed',
  subjects: 'a sync type',
  holds: 'its last run that is over ended in an error (not one that a person cancelled)',
  unseen: 'clear',
  find: ({ failed }) =>
    failed.map(({ syncType, runId, error }) => ({
      ...{ subject: syncType, active: true, value: null, threshold: null },
      summary: `run ${runId} of "${syncType}" failed: ${error}`,
    })),
  prometheus: () => [byOurselves('sync_failed', 'WaltideSyncFailed', 'The last run of a sync type ended in an error.')],
};

/** A restart leaves out a scrape or two. */
const ABSENT_MS = 300_000;
/** A process that took the place of a dead one shortly ago: whoever was not told yet is told. */
const NEWS_SECONDS = 600;

const ANY_GONE = 'max by (slot) (waltide_alerts{rule="instance_gone"}) > 0';
const WENT = {
  alert: 'WaltideInstanceGone',
  expr: 'max by (slot) (waltide_alerts{rule="instance_gone",severity="critical"}) > 0',
  summary: 'A process of Waltide gave no sign of life any more.',
};
const REPLACED = {
  alert: 'WaltideInstanceReplaced',
  expr: 'max by (slot) (waltide_alerts{rule="instance_gone",severity="warning"}) > 0',
  summary: 'A process of Waltide gave no sign of life any more, and another has taken its place.',
};

const instanceGone: AlertRule<'instanceGone'> = {
  name: 'instance_gone',
  key: 'instanceGone',
  subjects: '`host (role)`',
  holds:
    'its heartbeat has expired without its having stopped, and no process of its role has been started since; or the one that has been tells of it, as a warning',
  unseen: 'clear',
  find: ({ gone }, { severity }) =>
    gone.map(({ subject, id, heartbeatAt, successor, succeededSeconds, told }) => ({
      subject,
      active: successor === null || (!told && (succeededSeconds ?? 0) < NEWS_SECONDS),
      // All is well again: somebody should know, nobody has to get up.
      ...(successor !== null && severity === 'critical' && { severity: 'warning' as const }),
      ...{ value: heartbeatAt.getTime() / 1000, threshold: null },
      summary: `instance ${id} gave no sign of life since ${heartbeatAt.toISOString()}${successor === null ? '' : `; ${successor} has taken its place`}`,
    })),
  prometheus: ({ severity }) => [
    ...(severity === 'critical'
      ? [WENT, { ...REPLACED, severity: 'warning' as const }]
      : [{ ...WENT, expr: ANY_GONE }]),
    {
      alert: 'WaltideAbsent',
      expr: 'absent(waltide_build_info)',
      forMs: ABSENT_MS,
      summary: 'No process of Waltide answers Prometheus.',
    },
  ],
};

const sinkBreaker: AlertRule<'sinkBreaker'> = {
  name: 'sink_breaker',
  key: 'sinkBreaker',
  subjects: 'a sink',
  holds: 'its circuit breaker is open, or one attempt tells whether the sink is back',
  unseen: 'expires',
  find: (view) =>
    eachSink(view, ({ name, breaker, lastError }) => ({
      ...{ active: breaker !== 'closed', value: null, threshold: null },
      summary: `sink "${name}" fails again and again, and is left alone for a while: ${lastError ?? 'no error is known'}`,
    })),
  prometheus: () => [
    {
      alert: 'WaltideSinkBreaker',
      // One series, whichever of the two states it is in.
      expr: 'max without (state) (waltide_sink_breaker_state{state!="closed"}) == 1',
      summary: 'Sink {{ $labels.sink }} fails again and again: its circuit breaker is not closed.',
    },
  ],
};

const TABLES_SHOWN = 3;

const tableStopped: AlertRule<'tableStopped'> = {
  name: 'table_stopped',
  key: 'tableStopped',
  subjects: 'a sink',
  holds: 'tables are set aside, since the sink cannot hold them',
  unseen: 'expires',
  find: (view) =>
    eachSink(view, ({ name, stopped }) => {
      const shown = stopped.slice(0, TABLES_SHOWN).map(({ name: table, reason }) => `${table} (${reason})`);
      const more = stopped.length > TABLES_SHOWN ? ` and ${stopped.length - TABLES_SHOWN} more` : '';
      const summary = `sink "${name}" no longer follows ${shown.join(', ')}${more}`;
      return { active: stopped.length > 0, value: stopped.length, threshold: 0, summary };
    }),
  prometheus: () => [
    {
      alert: 'WaltideTableStopped',
      expr: 'waltide_sink_stopped_tables > 0',
      summary: 'Sink {{ $labels.sink }} no longer follows {{ $value }} tables.',
    },
  ],
};

const NOT_UP: readonly PipelineState[] = ['failed', 'starting', 'stopping', 'stopped'];

const pipelineStalled: AlertRule<'pipelineStalled'> = {
  name: 'pipeline_stalled',
  key: 'pipelineStalled',
  subjects: '`host (role)`',
  holds: 'the pipeline has failed for good, a stage is stuck, or the pipeline does not come up',
  unseen: 'expires',
  find: ({ process, status }) => {
    if (!status) return [];
    const { state, failure, stuck } = status;
    const summary = failure ?? (stuck.length > 0 ? stuck.join('; ') : `the pipeline is ${state}`);
    const active = NOT_UP.includes(state) || stuck.length > 0;
    return [{ subject: process, active, value: null, threshold: null, summary }];
  },
  prometheus: () => [
    {
      alert: 'WaltidePipelineStalled',
      expr: `max without (state) (waltide_state{state=~"${NOT_UP.join('|')}"}) == 1 or waltide_stuck_stages > 0`,
      summary: 'A pipeline has failed for good, is stuck, or does not come up.',
    },
  ],
};

/** What only the source knows, Waltide finds out itself: every process of a slot has the same number. */
function byOurselves(rule: string, alert: string, summary: string) {
  return { alert, expr: `max by (slot) (waltide_alerts{rule="${rule}"}) > 0`, summary } as const;
}

/** In the order of the documents. */
export const ALERT_RULES: readonly AlertRule[] = [
  sinkLag,
  consistencyScore,
  deadLetters,
  slotAtRisk,
  syncFailed,
  instanceGone,
  sinkBreaker,
  tableStopped,
  pipelineStalled,
].map((rule) => rule as unknown as AlertRule<RuleKey>);

export const INSTANCE_GONE = instanceGone.name;
