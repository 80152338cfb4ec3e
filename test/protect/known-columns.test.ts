import { describe, expect, it } from 'vitest';
import type { Relation } from '../../src/event/relation.ts';
import { KnownColumns } from '../../src/protect/known-columns.ts';
import { Treatments } from '../../src/protect/treatments.ts';
import { columnType } from '../support/column-type.ts';

const treat = (...columns: string[]): Treatments => {
  const rules = columns.length === 0 ? [] : [{ columns, mask: 'redact' as const, keepFirst: 0, keepLast: 4 }];
  return new Treatments({ protect: { rules }, transforms: [] }, null, new Map());
};
const rules = treat('public.t.mail');
const table = { schema: 'public', table: 't' };
const catalog = (names: Record<string, number>) =>
  Object.entries(names).map(([name, attnum]) => ({ name, attnum, typeOid: 25, modifier: -1 }));

function relation(...columns: (string | [string, number])[]): Relation {
  const all = columns.map((column) => {
    const [name, attnum] = typeof column === 'string' ? [column] : column;
    return { name, type: columnType('text'), modifier: -1, ...(attnum ? { attnum } : {}) };
  });
  return { oid: 1, ...table, replicaIdentity: 'd', columns: all, key: [0] };
}

const masked = (known: KnownColumns, of: Relation): string[] =>
  known.resolve(of, rules).flatMap(({ treatment }, i) => (treatment ? [of.columns[i]!.name] : []));

describe('columns known by number', () => {
  it('a renamed column stays masked, by what was recorded', () => {
    const first = new KnownColumns(table, catalog({ id: 1, mail: 2, n: 3 }), rules, undefined);
    const later = new KnownColumns(table, catalog({ id: 1, post: 2, n: 3 }), rules, first.leaving);
    expect(masked(later, relation('id', 'post', 'n'))).toEqual(['post']);
    expect(later.changedSince(first.leaving)).toBe(false);
    const latest = new KnownColumns(table, catalog({ id: 1, letter: 2 }), rules, later.leaving);
    expect(masked(latest, relation('id', 'letter'))).toEqual(['letter']);
  });

  it('a name that the catalog has not got yet, or no more, is found by its place', () => {
    const known = new KnownColumns(table, catalog({ id: 1, mail: 2, n: 4 }), rules, undefined);
    expect(masked(known, relation('id', 'post', 'n'))).toEqual(['post']);
    expect(masked(known, relation('id', 'mail', 'm'))).toEqual(['mail']);
    expect(masked(known, relation('id', ['post', 2], 'n', ['more', 5]))).toEqual(['post']);
    expect(masked(known, relation('id', ['post', 7], 'n'))).toEqual([]);
  });

  it('refuses where nobody can tell which column is the masked one', () => {
    const known = new KnownColumns(table, catalog({ id: 1, mail: 2, n: 3 }), rules, undefined);
    expect(() => masked(known, relation('id', 'post', 'more', 'n'))).toThrow(/post, more may be masked ones/);
    expect(() => masked(known, relation('id', 'n', 'post'))).toThrow(/post may be masked ones/);
    expect(masked(known, relation('id', 'mail', 'x', 'y'))).toEqual(['mail']);
  });

  it('what left otherwise is void, but not what came since or is gone', () => {
    const before = new KnownColumns(table, catalog({ id: 1, mail: 2 }), rules, undefined).leaving;
    const now = (columns: Record<string, number>, with_ = rules) =>
      new KnownColumns(table, catalog(columns), with_, before);
    expect(now({ id: 1, mail: 2, more: 3 }).changedSince(before)).toBe(false);
    expect(now({ id: 1 }).changedSince(before)).toBe(false);
    expect(now({ id: 1, mail: 2 }, treat()).changedSince(before)).toBe(true);
    expect(now({ id: 1, x: 2, mail: 3 }).changedSince(before)).toBe(false);
    expect(now({ id: 1, mail: 2 }).changedSince(undefined)).toBe(true);
    const retyped = catalog({ id: 1, mail: 2 }).map((column) => ({ ...column, typeOid: 1043 }));
    expect(new KnownColumns(table, retyped, rules, before).changedSince(before)).toBe(false);
    const number = retyped.map((column) => ({ ...column, typeOid: 1700 }));
    expect(new KnownColumns(table, number, rules, before).changedSince(before)).toBe(true);
  });
});
