import { expect, it } from 'vitest';
import { mayMask } from '../../src/protect/rules.ts';

const keep = { keepFirst: 0, keepLast: 4 };

it('tells by names alone whether a column may be masked', () => {
  const rules = [
    { columns: ['public.users.email', 'a.b.*'], mask: 'hash' as const, ...keep },
    { columns: ['*.*.ssn'], mask: 'redact' as const, ...keep },
    { columns: ['public.open.id'], mask: 'none' as const, ...keep },
  ];
  for (const [table, column, masked] of [
    ['public.users', 'email', true],
    ['users', 'email', true],
    ['other.users', 'email', false],
    ['public.users', 'id', false],
    ['b', 'id', true],
    ['a.b', 'id', true],
    ['any', 'ssn', true],
    ['any', 'id', false],
    ['any', null, true],
  ] as const)
    expect(mayMask(rules, table, column), `${table} ${column}`).toBe(masked);
  expect(mayMask(rules.slice(0, 1), 'orders', null)).toBe(false);
  expect(mayMask(rules.slice(2), 'open', null)).toBe(false);
});
