import { setImmediate } from 'node:timers/promises';
import { RejectedError } from '../../errors.ts';
import type { ChangeEvent } from '../../event/change-event.ts';
import type { Relation } from '../../event/relation.ts';
import { KeylessError } from '../compact.ts';

/** Events looked at before other work of the process gets its turn: about 2 ms. */
export const EVENTS_PER_TURN = 4096;

/** Folds the events of a run. Throws a RejectedError where rows are changed that nothing tells apart. */
export async function compact<C, K extends { add(event: ChangeEvent): void; finish(): C }>(
  compactor: K,
  run: { readonly relation: Relation; readonly events: readonly ChangeEvent[] },
): Promise<C> {
  const { schema, table } = run.relation;
  for (let i = 0; i < run.events.length; i++) {
    if (i > 0 && i % EVENTS_PER_TURN === 0) await setImmediate();
    try {
      compactor.add(run.events[i]!);
    } catch (error) {
      if (!(error instanceof KeylessError)) throw error;
      throw new RejectedError(schema, table, `${schema}.${table}: ${error.message}`, { cause: error });
    }
  }
  return compactor.finish();
}
