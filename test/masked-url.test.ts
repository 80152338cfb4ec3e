import { expect, it, vi } from 'vitest';
import { messageOf } from '../src/errors.ts';
import { createLog } from '../src/log.ts';

const URL = 'postgres://ann:hunter2@db:5432/shop?sslmode=require&password=hunter2';
const TOLD = 'postgres://ann:***@db:5432/shop?sslmode=require&password=***';

it('a message names URLs without the secrets in them', () => {
  expect(messageOf(new Error(`cannot reach ${URL} (or "https://x:hunter2@y/z"), see http://docs:80/a`))).toBe(
    `cannot reach ${TOLD} (or "https://x:***@y/z"), see http://docs:80/a`,
  );
  expect(messageOf(new AggregateError([new Error(URL), URL]))).toBe(`${TOLD}; ${TOLD}`);
  expect(messageOf('plain')).toBe('plain');
});

it('so does the log, of what others put into it', () => {
  const write = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  try {
    const log = createLog({ level: 'info', format: 'pretty' }).child({ schedule: 'mine' });
    log.warn({ err: new Error(`no answer from ${URL}`, { cause: new Error(URL) }) }, `gave up on ${URL}`);
    log.error(new Error(URL));
    const told = write.mock.calls.map(([line]) => String(line)).join('');
    expect(told).toContain(`gave up on ${TOLD}`);
    expect(told).toContain('no answer from');
    expect(told).not.toContain('hunter2');
  } finally {
    write.mockRestore();
  }
});
