import { formatDuration } from '../output.ts';
import { cut, ends, type Line, line, span, wrap } from './line.ts';
import type { DashboardState } from './model.ts';
import { alertLines, processLines, runLines, sinkLines, syncTypeLines, tableLines } from './sections.ts';

export interface Size {
  readonly columns: number;
  readonly rows: number;
}

/** What stands above and below the body. */
const FRAME_ROWS = 2;

/** Rows for the body; 0 where the terminal has none left. */
export function bodyRows({ rows }: Size): number {
  return Math.max(0, rows - FRAME_ROWS);
}

/** The screen: at most `rows` lines, none wider than `columns`. Never throws. */
export function renderScreen(state: DashboardState, size: Size, nowMs: number): Line[] {
  const { columns, rows } = size;
  const shown = bodyRows(size);
  const body = renderBody(state, columns, nowMs);
  const first = Math.min(state.scroll, Math.max(0, body.length - shown));
  const visible = body.slice(first, first + shown);
  const blank = Array.from({ length: shown - visible.length }, (): Line => []);
  const more = body.length > shown ? ` ${first + 1}–${first + visible.length} of ${body.length} lines ` : '';
  const keys = `q quit  ${state.paused ? 'p go on' : 'p pause'}  ${more ? '↑↓ PgUp PgDn scroll' : 'r refresh'}`;
  const footer = ends(line(span(keys, 'dim')), line(span(more, 'dim')), columns);
  return [header(state, columns, nowMs), ...visible, ...blank, footer].slice(0, Math.max(0, rows));
}

/** Everything there is to say, as a text to be read: as many lines as it takes, none wider than `columns`. Never throws. */
export function renderPage(state: DashboardState, columns: number, nowMs: number): Line[] {
  return [header(state, columns, nowMs), ...renderBody(state, columns, nowMs)];
}

function header(state: DashboardState, columns: number, nowMs: number): Line {
  const { target, intervalMs, paused } = state;
  const clock = new Date(nowMs).toISOString().replace(/\.\d+Z$/, 'Z');
  const pace = paused ? span('paused', 'yellow') : span(`every ${formatDuration(intervalMs / 1000)}`, 'dim');
  return ends(line(span('waltide', 'bold'), '  ', target), line(pace, '  ', span(clock, 'dim')), columns);
}

function renderBody(state: DashboardState, columns: number, nowMs: number): Line[] {
  const { picture } = state;
  const failing = failureLines(state, nowMs);
  if (picture === null) {
    const waiting = failing.length > 0 ? failing : [line('asking …')];
    return waiting.flatMap((one) => wrap(one, columns));
  }
  const sections = [
    [...failing, ...processLines(picture, nowMs)].flatMap((one) => wrap(one, columns)),
    alertLines(picture, columns, nowMs),
    sinkLines(state, picture, columns),
    tableLines(state, picture, columns),
    syncTypeLines(picture, columns, nowMs),
    runLines(picture, columns, nowMs),
  ].filter((lines) => lines.length > 0);
  return sections.flatMap((lines, i) => (i === 0 ? lines : [[], ...lines])).map((one) => cut(one, columns));
}

function failureLines({ failing, picture, intervalMs }: DashboardState, nowMs: number): Line[] {
  if (failing === null) return [];
  const again = `tried again every ${formatDuration(intervalMs / 1000)}`;
  const lines = [line(span('● down', 'red'), '  ', failing), line(span(again, 'dim'))];
  if (picture !== null) {
    const age = formatDuration(Math.max(0, (nowMs - picture.atMs) / 1000));
    lines.push(line(span(`What follows was so ${age} ago.`, 'yellow')));
  }
  return lines;
}
