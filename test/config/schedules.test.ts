import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { parse } from 'yaml';
import { loadConfig, resolveConfig } from '../../src/config/load.ts';
import type { ConfigInput } from '../../src/config/schema.ts';

const source = { url: 'postgres://a@b/c', tables: ['*.*'] };
const sinks: ConfigInput['sinks'] = [{ name: 'analytics', type: 'duckdb', path: 'a.duckdb' }];

test('the ready configuration is one, with the older systems’ times', () => {
  const text = readFileSync(new URL('../../docs/schedules.yaml', import.meta.url), 'utf8');
  const { schedules } = resolveConfig({ source, sinks, ...(parse(text) as Partial<ConfigInput>) });
  expect(schedules.map(({ name, type, cron, timeZone }) => [name, type, cron, timeZone])).toEqual([
    ['hourly', 'module', '0,30 * * * *', 'UTC'],
    ['full', 'snapshot', '0 2 * * *', 'UTC'],
    ['validation', 'validate', '0 3 * * *', 'UTC'],
    ['cleanup', 'cleanup', '0 4 * * 0', 'UTC'],
  ]);
});

test('what cannot be is refused: where, and what would do', () => {
  const faultsOf = (schedules: object[]): string => {
    try {
      resolveConfig({ source, sinks, schedules } as ConfigInput);
      return '';
    } catch (error) {
      return (error as Error).message;
    }
  };
  const cleanup = { name: 'a', type: 'cleanup', cron: '0 4 * * 0' };
  expect(faultsOf([cleanup])).toBe('');
  expect(faultsOf([{ ...cleanup, cron: '61 * * * *' }])).toMatch(/schedules\[0\]\.cron.*must be a cron expression/);
  expect(faultsOf([{ ...cleanup, timeZone: 'Mars/Base' }])).toMatch(/timeZone.*must be a time zone/);
  expect(faultsOf([cleanup, cleanup])).toMatch(/schedules\[1\]\.name.*schedules\[0\] has this name too/);
  expect(faultsOf([{ ...cleanup, type: 'push' }])).toMatch(/schedules\[0\]\.type/);
  expect(faultsOf([{ ...cleanup, type: 'replay', sink: 'other', hours: 1 }])).toMatch(
    /schedules\[0\]\.sink.*no such sink; there are: analytics/,
  );
  expect(faultsOf([{ ...cleanup, jitterMs: -1 }])).toMatch(/jitterMs/);
});

test('a variable of the environment sets a schedule’s key, by number', async () => {
  const { config } = await loadConfig({
    cwd: new URL('.', import.meta.url).pathname,
    env: {
      WALTIDE_SOURCE_URL: source.url,
      WALTIDE_SOURCE_TABLES: '*.*',
      WALTIDE_SCHEDULES_0_NAME: 'old',
      WALTIDE_SCHEDULES_0_TYPE: 'cleanup',
      WALTIDE_SCHEDULES_0_CRON: '0 4 * * 0',
    },
  });
  expect(config.schedules).toMatchObject([{ name: 'old', type: 'cleanup', cron: '0 4 * * 0' }]);
});
