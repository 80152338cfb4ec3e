import { describe, expect, it } from 'vitest';
import { resolveConfig } from '../../src/config/load.ts';
import type { ConfigInput } from '../../src/config/schema.ts';
import { paceOf, STRATEGIES } from '../../src/config/strategy.ts';
import { Pace } from '../../src/sink/pace.ts';
import { events, relation } from './duckdb/support.ts';

const ORDERS = relation('orders', [['id', 'int8']]);
const AUDIT = relation('audit_log', [['id', 'int8']]);
const OTHER = relation('other', [['id', 'int8']]);

const configOf = (overrides: Partial<ConfigInput>) =>
  resolveConfig({
    source: { url: 'postgres://h/d', tables: ['*.*'] },
    sinks: [{ name: 'a', type: 'duckdb', path: 'a.duckdb' }],
    ...overrides,
  });

const paceIn = (overrides: Partial<ConfigInput>): Pace => {
  const config = configOf(overrides);
  return new Pace(paceOf(config, config.sinks[0]!));
};

const TABLES: Partial<ConfigInput> = {
  tableStrategies: [
    { tables: ['public.orders'], strategy: 'real_time' },
    { tables: ['public.audit_*'], strategy: 'batch' },
  ],
};

describe('strategies', () => {
  it('count for all sinks, unless a sink or its batch says otherwise', () => {
    const config = configOf({
      strategy: 'batch',
      sinks: [
        { name: 'a', type: 'duckdb', path: 'a.duckdb' },
        { name: 'b', type: 'duckdb', path: 'b.duckdb', strategy: 'real_time' },
        { name: 'c', type: 'duckdb', path: 'c.duckdb', batch: { lingerMs: 77 } },
      ],
    });
    const lingers = config.sinks.map((sink) => paceOf(config, sink).base.lingerMs);
    expect(lingers).toEqual([STRATEGIES.batch.lingerMs, 0, 77]);
    expect(paceOf(config, { name: 'own', batch: { rowsMax: 5 } }).base).toMatchObject({ rowsMax: 5, lingerMs: 5000 });
  });

  it('never ask for a batch that the in-flight budget does not let fill', () => {
    const config = configOf({
      strategy: 'recovery',
      transport: { type: 'in-process', inFlightBytesMax: 1000 },
      tableStrategies: [{ tables: ['*.*'], strategy: 'batch' }],
    });
    const { base, tables } = paceOf(config, config.sinks[0]!);
    expect([base.bytesMax, tables[0]!.batching.bytesMax]).toEqual([500, 500]);
  });

  it('are refused for a sink that there is not', () => {
    const tableStrategies = [{ tables: ['*.*'], strategy: 'batch' as const, sinks: ['a', 'b'] }];
    expect(() => configOf({ tableStrategies })).toThrow(/tableStrategies\[0\]\.sinks\[1\]: there is no sink "b"/);
  });
});

describe('Pace', () => {
  it('takes the table, and of several the shortest wait', () => {
    const pace = paceIn(TABLES);
    const lingerOf = (...tables: (typeof ORDERS)[]) =>
      pace.of(events(tables.map((table) => ['c', table, ['1']] as const))).lingerMs;
    expect(lingerOf(AUDIT)).toBe(5000);
    expect(lingerOf(OTHER)).toBe(10);
    expect(lingerOf(AUDIT, OTHER)).toBe(10);
    expect(lingerOf(AUDIT, ORDERS, OTHER)).toBe(0);
  });

  it('leaves sinks that are not named alone', () => {
    const config = configOf({
      sinks: [
        { name: 'a', type: 'duckdb', path: 'a.duckdb' },
        { name: 'b', type: 'duckdb', path: 'b.duckdb' },
      ],
      tableStrategies: [{ tables: ['public.orders'], strategy: 'batch', sinks: ['b'] }],
    });
    const [a, b] = config.sinks.map((sink) => new Pace(paceOf(config, sink)).of(events([['c', ORDERS, ['1']]])));
    expect([a!.lingerMs, b!.lingerMs]).toEqual([10, 5000]);
  });

  it('hybrid waits the longer the busier the sink is, up to its bound, and not at all once it is idle', () => {
    const pace = paceIn({ strategy: 'hybrid' });
    const lingerAfter = (share: number): number => {
      pace.spent(share);
      return pace.of(events([['c', ORDERS, ['1']]])).lingerMs;
    };
    expect(pace.of([]).lingerMs).toBe(0);
    expect([0.9, 0.9, 0.9, 0.4].map(lingerAfter)).toEqual([5, 10, 20, 20]);
    for (let i = 0; i < 20; i++) lingerAfter(1);
    expect(lingerAfter(1)).toBe(500);
    for (let i = 0; i < 20; i++) lingerAfter(0.1);
    expect(lingerAfter(0.1)).toBe(0);
  });

  it('only hybrid adapts', () => {
    const pace = paceIn({});
    for (let i = 0; i < 5; i++) pace.spent(1);
    expect(pace.of([]).lingerMs).toBe(10);
  });
});
