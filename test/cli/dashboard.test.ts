import { EventEmitter } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { PassThrough } from 'node:stream';
import fc from 'fast-check';
import { afterEach, describe, expect, test } from 'vitest';
import { cut, harmless, painted, span, sparkline, table, widthOf, wrap } from '../../src/cli/dashboard/line.ts';
import { showLive } from '../../src/cli/dashboard/live.ts';
import { type DashboardState, initialState, type Picture, scrolled, seen } from '../../src/cli/dashboard/model.ts';
import { remotePoll } from '../../src/cli/dashboard/poll.ts';
import { recordsReading, statusReading } from '../../src/cli/dashboard/reading.ts';
import { renderPage, renderScreen } from '../../src/cli/dashboard/render.ts';
import { displayWidth, paintFor } from '../../src/cli/output.ts';
import { pipelineStatus, sinkStatus } from '../api/fixtures.ts';
import { eventually } from '../support/pipeline.ts';
import { cli } from './support.ts';

/* What the dashboard shows, without any server: pure functions, a terminal that only remembers, and broken APIs. */

const plain = paintFor({}, { NO_COLOR: '1' });
const NOW = Date.parse('2026-11-27T04:00:00Z');

const hostile = fc.oneof(
  fc.constantFrom(
    ...[
      '',
      'orders',
      'a\u001b[31m\u001b[2Jb',
      'x\r\ny\ttab',
      '\u202eevil\u2066',
      '\u0000',
      '\ud800',
      `e${'\u0301'.repeat(50)}`,
    ],
    ...[
      '夜のテーブル',
      '👩‍👩‍👧',
      '🇩🇪',
      '\u200b\u200d\ufe0f',
      '\u{e0041}',
      'ﷺ'.repeat(20),
      '\u009b31m',
      'ใ้ไ',
      'x'.repeat(3000),
    ],
  ),
  fc.string({ unit: 'binary', maxLength: 40 }),
  fc.string({ unit: 'grapheme', maxLength: 40 }),
);
const number = fc.oneof(fc.nat(), fc.double(), fc.constantFrom(0, -1, 1e308, Number.MAX_SAFE_INTEGER));
const named = fc.array(fc.record({ name: hostile, events: number, open: number, reason: hostile }), { maxLength: 8 });
const sink = fc
  .record({
    name: hostile,
    type: hostile,
    lagBytes: number,
    events: number,
    eventsPerSecond: number,
    tables: named,
    more: named,
  })
  .chain((one) =>
    fc
      .record({ lastError: fc.option(hostile), lagSeconds: fc.option(number), breaker: hostile })
      .map((rest) => ({ ...one, ...rest })),
  )
  .map(({ more, ...one }) => ({
    ...sinkStatus(),
    ...one,
    stopped: more,
    deadLetters: { open: more.length, oldestAt: null, tables: more },
  }));
const status = fc
  .record({
    state: hostile,
    role: hostile,
    version: hostile,
    startedAt: hostile,
    sinks: fc.array(sink, { maxLength: 4 }),
    stuck: fc.array(hostile, { maxLength: 3 }),
    failure: fc.option(hostile),
  })
  .map((one) => statusReading.parse({ ...pipelineStatus(), ...one }));
const run = fc.record({
  id: hostile,
  sync_type: hostile,
  sync_timestamp: hostile,
  status: hostile,
  records_processed: number,
  duration_seconds: number,
  error_message: fc.option(hostile),
});
const statistic = fc.record({
  sync_type: hostile,
  runs: number,
  success_rate: fc.option(number),
  duration_seconds_average: fc.option(number),
  last_at: hostile,
  last_status: hostile,
});
const alert = fc.record({
  ...{ rule: hostile, subject: hostile, severity: hostile, state: hostile, summary: hostile, since: hostile },
});
const records = fc
  .record({
    runs: fc.array(run, { maxLength: 6 }),
    statistics: fc.array(statistic, { maxLength: 6 }),
    instances: number,
    alerts: fc.option(fc.array(alert, { maxLength: 4 })),
  })
  .map((one) => recordsReading.parse(one));
const picture: fc.Arbitrary<Picture> = fc.record({
  atMs: fc.integer({ min: NOW - 1e6, max: NOW + 1e6 }),
  processes: fc.array(fc.record({ name: hostile, status }), { maxLength: 3 }),
  silent: fc.array(hostile, { maxLength: 2 }),
  records: fc.option(records),
  recordsError: fc.option(hostile),
});
const state: fc.Arbitrary<DashboardState> = fc
  .record({ target: hostile, pictures: fc.array(picture, { maxLength: 4 }), paused: fc.boolean(), scroll: fc.nat(500) })
  .map(({ target, pictures, paused, scroll }) => ({
    ...pictures.reduce(seen, initialState(target, 2000)),
    paused,
    scroll,
  }));

describe('whatever comes, on whatever terminal', () => {
  test('no line is wider than it, none is too many, nothing in them moves the cursor', () => {
    fc.assert(
      fc.property(state, fc.integer({ min: 0, max: 200 }), fc.integer({ min: 0, max: 60 }), (one, columns, rows) => {
        const screen = renderScreen(one, { columns, rows }, NOW);
        expect(screen).toHaveLength(rows);
        for (const line of [...screen, ...renderPage(one, columns, NOW)]) {
          const text = painted(line, plain);
          expect(displayWidth(text)).toBeLessThanOrEqual(columns);
          expect(widthOf(line)).toBeLessThanOrEqual(columns);
          expect(text).not.toMatch(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u);
        }
      }),
      { numRuns: 150 },
    );
  });

  test('whatever an API answers is read or refused, never thrown over', () => {
    fc.assert(
      fc.property(
        fc.anything(),
        fc.dictionary(fc.constantFrom(...Object.keys(pipelineStatus())), fc.anything()),
        (any, some) => {
          statusReading.safeParse(any);
          const read = statusReading.parse({ ...some, state: 'streaming' });
          const picture = {
            atMs: NOW,
            processes: [{ name: 'x', status: read }],
            silent: [],
            records: recordsReading.parse({ ...some }),
            recordsError: null,
          };
          renderPage(seen(initialState('x', 1000), picture), 80, NOW);
        },
      ),
    );
  });

  test('scrolling stays within the body', () => {
    const moves = fc.array(fc.constantFrom('up', 'down', 'page-up', 'page-down', 'top', 'bottom' as const), {
      maxLength: 20,
    });
    fc.assert(
      fc.property(moves, fc.nat(100), fc.nat(60), (all, lines, shown) => {
        const end = all.reduce((one, move) => scrolled(one, move, lines, shown), initialState('x', 1000));
        expect(end.scroll).toBeGreaterThanOrEqual(0);
        expect(end.scroll).toBeLessThanOrEqual(Math.max(0, lines - shown));
      }),
    );
  });
});

describe('lines', () => {
  test('hostile names are told, not obeyed', () => {
    expect(harmless('a\u001b[31mb')).toBe('a\\x1b[31mb');
    expect(harmless('a\u202eb\u200dc')).toBe('a\\u202eb\\u{200d}c');
    expect(harmless('夜のテーブル')).toBe('夜のテーブル');
    expect(harmless('e\u0301\u0301\u0301\u0301')).toBe('e\u0301\u0301');
  });

  test('what is cut off is shown as such, wide characters whole', () => {
    expect(painted(cut([span('abcdef')], 4), plain)).toBe('abc…');
    expect(painted(cut([span('夜のテ')], 4), plain)).toBe('夜…');
    expect(painted(cut([span('abc')], 0), plain)).toBe('');
  });

  test('a message takes as many lines as it needs, up to five', () => {
    const at = (text: string, width: number): string[] => wrap([span(text)], width).map((one) => painted(one, plain));
    expect(at('one two three', 9)).toEqual(['one two', '    three']);
    expect(at('one two xyz', 7)).toEqual(['one two', '    xyz']);
    expect(at('one two three', 13)).toEqual(['one two three']);
    const long = at('word '.repeat(50), 12);
    expect(long).toHaveLength(5);
    expect(long.at(-1)).toMatch(/…$/);
  });

  test('a table gives way: long texts first, then columns by their rank', () => {
    const columns = [
      { title: 'name', least: 6 },
      { title: 'n', align: 'right' as const },
      { title: 'extra', drop: 1 },
    ];
    const rows = [[span('a long name'), span('12'), span('12345')]];
    const at = (width: number): string[] => table(columns, rows, width).map((line) => painted(line, plain));
    expect(at(30)).toEqual(['name          n  extra', 'a long name  12  12345']);
    expect(at(18)).toEqual(['name      n  extra', 'a long…  12  12345']);
    expect(at(14)).toEqual(['name         n', 'a long na…  12']);
    expect(at(5)).toEqual(['name…', 'a lo…']);
  });

  test('a course is scaled to its highest', () => {
    expect(sparkline([0, 1, 2, 4, 8], 4)).toBe('▁▂▄█');
    expect(sparkline([0, 0], 9)).toBe('▁▁');
  });
});

function pictureOf(atMs: number, events: number, changes = {}): Picture {
  const one = statusReading.parse(
    pipelineStatus({
      sinks: [sinkStatus({ tables: [{ ...sinkStatus().tables[0]!, name: 'public.a', events }], ...changes })],
    }),
  );
  return {
    atMs,
    processes: [{ name: 'pid 1', status: one }],
    silent: [],
    records: null,
    recordsError: 'no PostgreSQL',
  };
}

const shown = (one: DashboardState, columns = 100): string =>
  renderPage(one, columns, NOW)
    .map((line) => painted(line, plain))
    .join('\n');

describe('what is shown', () => {
  test('rates of tables are those between two pictures of the same process', () => {
    const first = seen(initialState('slot "s"', 2000), pictureOf(NOW - 4000, 100));
    expect(shown(first)).toMatch(/public\.a +analytics +streaming +\S+( m?s)? +– +100/);
    const second = seen(first, pictureOf(NOW - 2000, 300));
    expect(shown(second)).toMatch(/public\.a +analytics +streaming +\S+( m?s)? +100 +300/);
  });

  test('a pipeline that went away: said first, with how old the figures are; and that it is back', () => {
    const before = seen(initialState('slot "s"', 2000), pictureOf(NOW - 60_000, 100));
    const gone = seen(before, { ...pictureOf(NOW, 0), processes: [] });
    expect(shown(gone)).toMatch(
      /● down {2}no process of slot "s" is running\ntried again every 2\.0 s\nWhat follows was so 1 min 0 s ago/,
    );
    expect(shown(gone)).toContain('public.a');
    expect(shown(seen(gone, pictureOf(NOW, 7)))).not.toContain('down');
    const never = seen(initialState('slot "s"', 2000), { ...pictureOf(NOW, 0), processes: [] });
    expect(shown(never)).toContain('● down');
  });

  test('what needs somebody: breaker, error, stopped table, letters, alerts, PostgreSQL that cannot be asked', () => {
    const changes = {
      breaker: 'open',
      lastError: 'disk \u001b[31mfull',
      stopped: [{ name: 'public.b', reason: 'cannot hold it' }],
      deadLetters: { open: 3, oldestAt: null, tables: [{ name: 'public.c', open: 3 }] },
    };
    const alerts = [
      {
        ...{ rule: 'sink_lag', subject: 'analytics', severity: 'critical', state: 'firing' },
        ...{ summary: '16 min behind', since: '2026-11-27T03:00:00Z' },
      },
    ];
    const told = (more: object): string =>
      shown(seen(initialState('slot "s"', 2000), { ...pictureOf(NOW, 1, changes), ...more }), 120);
    const text = told({ records: recordsReading.parse({ alerts }), recordsError: null });
    expect(text).toMatch(/analytics +breaker open/);
    expect(text).toContain('last error of analytics: disk \\x1b[31mfull');
    expect(text).toContain('stopped in analytics: public.b: cannot hold it');
    expect(text).toMatch(/TABLES {2}3\n.*\npublic\.b +analytics +stopped.*\npublic\.c .* 3\n/);
    expect(text).toMatch(/ALERTS {2}1\n.*\ncritical +sink_lag +analytics +firing +1 h 0 min ago +16 min behind/);
    expect(told({})).toContain('not known: no PostgreSQL');
    expect(told({ records: recordsReading.parse({}), recordsError: null })).not.toContain('ALERTS');
    expect(told({ records: recordsReading.parse({ alerts: [] }), recordsError: null })).toContain('ALERTS  none');
  });

  test('80 × 24 shows what matters most', () => {
    const one = renderScreen(
      seen(seen(initialState('slot "s"', 2000), pictureOf(NOW - 1, 1)), pictureOf(NOW, 1)),
      { columns: 80, rows: 24 },
      NOW,
    );
    const text = one.map((line) => painted(line, plain)).join('\n');
    for (const wanted of ['streaming', 'lag', 'seconds', 'events/s', 'letters', 'WAL budget', 'q quit'])
      expect(text).toContain(wanted);
  });
});

/** A terminal that remembers what was written to it. */
class Terminal extends EventEmitter {
  columns = 80;
  rows = 24;
  isTTY = true;
  text = '';
  write(text: string): boolean {
    this.text += text;
    return true;
  }
  /** What stands there since it was last erased. */
  get last(): string {
    return this.text.slice(this.text.lastIndexOf('\u001b[H'));
  }
}

class Keys extends PassThrough {
  isTTY = true;
  raw = false;
  setRawMode(on: boolean): void {
    this.raw = on;
  }
}

describe('on a terminal', () => {
  test('keys scroll, pause and quit; a new size is drawn at once; the terminal is given back as it was', async () => {
    const output = new Terminal();
    const input = new Keys();
    let polls = 0;
    const many = Array.from({ length: 50 }, (_, i) => ({ name: `public.t${String(i).padStart(2, '0')}`, events: i }));
    const poll = async () => pictureOf(Date.now() + polls++, 1, { tables: many });
    const signal = new AbortController().signal;
    const live = showLive({ target: 'slot "s"', intervalMs: 50, poll, paint: plain, input, output, signal });
    await eventually('tables are there', () => output.last.includes('public.t00'));
    expect(output.text.startsWith('\u001b[?1049h\u001b[?25l')).toBe(true);
    expect(input.raw).toBe(true);
    input.write('\u001b[F');
    await eventually('the end is shown', () => output.last.includes('public.t49'));
    input.write('g');
    await eventually('the beginning is shown', () => output.last.includes('SINKS'));
    input.write('\u001b[6~');
    await eventually('a page further', () => !output.last.includes('SINKS') && output.last.includes('public.t20'));
    input.write('p');
    await eventually('it is paused', () => output.last.includes('paused'));
    const paused = polls;
    output.columns = 40;
    output.rows = 10;
    output.emit('resize');
    await eventually('it is drawn smaller', () => output.last.split('\r\n').length === 10);
    expect(polls - paused).toBeLessThanOrEqual(1);
    input.write('q');
    await live;
    expect(output.text.endsWith('\u001b[?7h\u001b[?25h\u001b[0m\u001b[?1049l')).toBe(true);
    expect(input.raw).toBe(false);
    expect(output.listenerCount('resize')).toBe(0);
  });
});

describe('an API elsewhere', () => {
  let server: Server | undefined;
  afterEach(() => void server?.close());

  const serve = async (answer: string, statusCode = 200): Promise<string> => {
    server = createServer((_request, response) => response.writeHead(statusCode).end(answer)).listen(0, '127.0.0.1');
    await new Promise((resolve) => server!.once('listening', resolve));
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  };
  const asked = async (url: string): Promise<string> => {
    const [reason] = (await remotePoll([{ url, token: null, name: 'there' }])()).silent;
    return reason!;
  };

  test('that is none, answers rubbish or does not know the key: said in one line', async () => {
    expect(await asked('http://127.0.0.1:1')).toMatch(/^there cannot be reached: .*ECONNREFUSED/);
    expect(await asked(await serve('<html>', 502))).toContain('status 502 and no JSON');
    server!.close();
    expect(await asked(await serve('{"n":1}'))).toContain("something that is not Waltide's");
    server!.close();
    const problem = { code: 'UNAUTHENTICATED', detail: 'no key', help: 'give one', status: 401 };
    expect(await asked(await serve(JSON.stringify(problem), 401))).toContain('WALTIDE_API_KEY');
    server!.close();
    expect(await asked(await serve('x'.repeat(17_000_000)))).toContain('longer than');
  });

  test('a URL or key that cannot be: refused before anything is sent', async () => {
    const run = (...argv: string[]) => cli('/', 'dashboard', '--once', ...argv);
    for (const url of ['nonsense', 'ftp://x', 'http://u:p@127.0.0.1:1'])
      expect(await run('--url', url), url).toMatchObject({
        code: 2,
        stdout: '',
        stderr: expect.stringContaining('--url'),
      });
    expect(await run('--url', 'http://127.0.0.1:1', '--api-key-file', '/nothing')).toMatchObject({ code: 2 });
    const down = await run('--url', 'http://127.0.0.1:1');
    expect(down).toMatchObject({ code: 1, stderr: '' });
    expect(down.stdout).toContain('● down  127.0.0.1:1 cannot be reached');
  });
});
