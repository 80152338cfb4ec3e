import { WaltideError } from '../errors.ts';
import { relationName } from '../event/relation.ts';
import { encodeTuple, fillUnchanged, hasUnchanged, Row } from '../event/row.ts';
import type { TextOf } from './filter.ts';
import { callFunction } from './function.ts';
import type { Plan } from './plan.ts';

/*
 * Which rows leave, and what functions make of them: still as the source has them. An update can take a row out or bring
 * one in; to whoever has only what left, that is a delete or an insert.
 */

export interface Passed {
  readonly op: 'c' | 'u' | 'd' | 'r';
  readonly before: Row | null;
  readonly after: Row | null;
}

/** True where every filter of the plan says so; unknown is no, as in SQL. */
export function passes({ filters }: Plan, text: TextOf): boolean {
  for (const filter of filters) if (filter(text) !== true) return false;
  return true;
}

/** Null where nothing of the change leaves. Throws TRANSFORM where that cannot be told. */
export function pass(plan: Plan, op: Passed['op'], before: Row | null, after: Row | null): Passed | null {
  const old = before && (plan.whole ? through(plan, before) : keyThrough(plan, before));
  if (op === 'd') return old && { op, before: old, after: null };
  const whole =
    before && after && hasUnchanged(after) ? fillUnchanged(after, before, plan.whole ? null : plan.source.key) : after!;
  const made = through(plan, whole);
  if (op !== 'u') return made && { op, before: null, after: made };
  if (made === null && !plan.whole && plan.functions.length > 0 && passes(plan, (column) => whole.text(column)))
    throw impossible(plan, 'left out a row that an update changed, and nobody knows whether it has left before');
  if (!before) return made && { op, before: null, after: made };
  if (old && made) return { op, before: old, after: made };
  if (old) return { op: 'd', before: old, after: null };
  if (made && hasUnchanged(made))
    throw impossible(plan, 'lets in a row by an update of its key, which does not bring all of its values');
  return made && { op: 'c', before: null, after: made };
}

function through(plan: Plan, row: Row): Row | null {
  if (!passes(plan, (column) => row.text(column))) return null;
  if (plan.functions.length === 0) return row;
  const { source, names, functions, whole } = plan;
  const texts = source.columns.map((_, i) => row.text(i));
  let made: (string | null | undefined)[] | null = texts;
  for (const loaded of functions) {
    made = callFunction(loaded, names, made, source);
    if (made === null) return null;
  }
  if (!whole && source.key.some((index) => made[index] !== texts[index]))
    throw impossible(plan, 'changed the key of a row, which an update or a delete would not find again');
  return new Row(source, encodeTuple(made), 0);
}

/** Of the row before only the key is known, which functions leave as it is. */
function keyThrough(plan: Plan, row: Row): Row | null {
  return passes(plan, (column) => row.text(column)) ? row : null;
}

function impossible({ source }: Plan, what: string): WaltideError {
  const table = relationName(source);
  return new WaltideError(
    'TRANSFORM',
    `source.transforms: what is configured for table ${table} ${what}`,
    `Run ALTER TABLE ${table} REPLICA IDENTITY FULL, which tells what rows were before, then \`waltide run --recopy\`.`,
  );
}
