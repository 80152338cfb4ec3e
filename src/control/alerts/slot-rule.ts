import type { BudgetStatus } from '../../pipeline/status.ts';
import type { AlertRule } from './rule.ts';
import { size, span } from './words.ts';

export const slotAtRisk: AlertRule<'slotAtRisk'> = {
  name: 'slot_at_risk',
  key: 'slotAtRisk',
  subjects: 'the slot',
  holds:
    'the WAL budget (`source.walBudget`) is at `level` or beyond, or the slot is invalidated or gone; critical from level critical on',
  unseen: 'expires',
  find: ({ slot, config }, { level }) => {
    const { slot: subject } = config.source;
    if (slot === null) return [];
    if (slot === 'missing')
      return [
        {
          ...{ subject, active: true, severity: 'critical', value: null, threshold: null },
          summary: `slot "${subject}" is not there any more: changes since are lost; see \`waltide run --recopy\``,
        },
      ];
    const grave = slot.level === 'critical' || slot.level === 'lost';
    return [
      {
        subject,
        active: grave || (level === 'warning' && slot.level === 'warning'),
        ...(grave && { severity: 'critical' as const }),
        value: slot.retainedBytes,
        threshold: slot.budgetBytes,
        summary: describe(subject, slot),
      },
    ];
  },
  prometheus: ({ level }) => [
    ...(level === 'warning'
      ? [
          {
            alert: 'WaltideSlotAtRisk',
            expr: 'waltide_wal_budget_level{level="warning"} == 1',
            summary: 'The WAL that slot {{ $labels.slot }} retains comes near its budget.',
          },
        ]
      : []),
    {
      alert: 'WaltideSlotCritical',
      expr: 'waltide_wal_budget_level{level=~"critical|lost"} == 1',
      severity: 'critical',
      summary: 'Slot {{ $labels.slot }} is lost, or soon will be: the WAL budget is at level {{ $labels.level }}.',
    },
  ],
};

function describe(
  name: string,
  { level, invalidation, walStatus, retainedBytes, budgetBytes, secondsLeft }: BudgetStatus,
): string {
  if (level === 'lost') return `slot "${name}" is lost (${invalidation ?? walStatus}); see \`waltide slot list\``;
  const of = budgetBytes === null ? '' : ` of ${size(budgetBytes)}`;
  const left = secondsLeft === null ? '' : `, used up in ${span(secondsLeft)}`;
  return `the source retains ${size(retainedBytes)}${of} of WAL for slot "${name}" (${walStatus ?? level})${left}`;
}
