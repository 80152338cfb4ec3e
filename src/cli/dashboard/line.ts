import { type Align, displayWidth, type Paint, printable } from '../output.ts';

/* Lines of a terminal that are never wider than it, whatever the text in them is. Pure. */

export type Style = Parameters<Paint>[0];

/** A part of a line in one style. Its text is harmless: made by `span`. */
export interface Span {
  readonly text: string;
  readonly style: Style | null;
}

export type Line = readonly Span[];

/** Longest text that is looked at: nobody reads more of a name or an error in a table. */
const CHARACTERS_MAX = 2000;

/** What cannot be seen, or changes how what comes after it looks: escaped, so that it can neither hide nor disguise. */
const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]|\p{Variation_Selector}/gu;

/** Text of anybody as a terminal can show it: no control characters, no marks towering over other lines. */
export function harmless(text: string): string {
  // The fast path is plain ASCII.
  if (/^[\u0020-\u007e]*$/.test(text) && text.length <= CHARACTERS_MAX) return text;
  return printable(text.slice(0, CHARACTERS_MAX))
    .replace(UNSEEN, (one) => `\\u{${one.codePointAt(0)!.toString(16)}}`)
    .replace(/(\p{M}{2})\p{M}+/gu, '$1')
    .replace(/\p{Zs}/gu, ' ');
}

export function span(text: string, style: Style | null = null): Span {
  return { text: harmless(text), style };
}

export function line(...parts: readonly (Span | string)[]): Line {
  return parts.map((part) => (typeof part === 'string' ? span(part) : part));
}

export function widthOf(one: Line): number {
  return one.reduce((width, { text }) => width + displayWidth(text), 0);
}

/** At most `width` columns of it; `…` stands for what was cut off. */
export function cut(one: Line, width: number): Line {
  if (widthOf(one) <= width) return one;
  const fitted: Span[] = [];
  let left = width - 1;
  if (left < 0) return [];
  for (const { text, style } of one) {
    const kept = firstColumns(text, left);
    fitted.push({ text: kept, style });
    left -= displayWidth(kept);
    if (kept.length < text.length) break;
  }
  return [...fitted, { text: '…', style: null }];
}

const WRAPPED_LINES_MAX = 5;
const INDENT = '    ';

/** All of it in up to five lines, broken between words; what comes after those is cut off. */
export function wrap(one: Line, width: number): Line[] {
  const lines: Span[][] = [[]];
  let left = width;
  const words = one.flatMap(({ text, style }) => text.split(/(?<=\S )(?=\S)/).map((word) => ({ text: word, style })));
  for (const word of words) {
    const columns = displayWidth(word.text.trimEnd());
    const full = columns > left && lines.at(-1)!.length > 0;
    if (full && lines.length < WRAPPED_LINES_MAX) {
      lines.push([{ text: INDENT, style: null }]);
      left = width - INDENT.length;
    }
    lines.at(-1)!.push(word);
    left -= displayWidth(word.text);
  }
  return lines.map((part) => cut(withoutEnd(part), width));
}

/** The blank after its last word must not push that over the edge. */
function withoutEnd(one: Line): Line {
  const last = one.at(-1);
  return last ? [...one.slice(0, -1), { ...last, text: last.text.trimEnd() }] : one;
}

function firstColumns(text: string, columns: number): string {
  let kept = '';
  let width = 0;
  for (const character of text) {
    width += displayWidth(character);
    if (width > columns) break;
    kept += character;
  }
  return kept;
}

/** Left and right end of one line; the left one gives way. */
export function ends(left: Line, right: Line, width: number): Line {
  const room = width - widthOf(right) - 2;
  if (room < Math.min(10, widthOf(left))) return cut(left, width);
  const fitted = cut(left, room);
  return [...fitted, { text: ' '.repeat(width - widthOf(right) - widthOf(fitted)), style: null }, ...right];
}

export interface Column {
  readonly title: string;
  readonly align?: Align;
  /** Least width that it may be cut to; left out: it is never cut. */
  readonly least?: number;
  /** The highest goes first where there is no room; left out: it stays. */
  readonly drop?: number;
}

const GAP = 2;

/** A table in `width` columns: wide texts are cut first, then whole columns go, and what is still too wide is cut off. */
export function table(columns: readonly Column[], rows: readonly (readonly Span[])[], width: number): Line[] {
  let chosen = columns.map((column, i) => ({ column, i }));
  for (;;) {
    const natural = chosen.map(({ column, i }) =>
      rows.reduce((most, row) => Math.max(most, displayWidth(row[i]!.text)), displayWidth(column.title)),
    );
    const widths = narrowed(
      natural,
      chosen.map(({ column }) => column.least ?? null),
      width - GAP * (chosen.length - 1),
    );
    const next = chosen.reduce<number | null>((most, { column: { drop } }) => {
      return drop === undefined || (most !== null && most >= drop) ? most : drop;
    }, null);
    if (widths === null && next !== null) {
      chosen = chosen.filter(({ column }) => column.drop !== next);
      continue;
    }
    const shown = widths ?? natural;
    const titles = chosen.map(({ column }) => ({ text: column.title, style: 'dim' as const }));
    return [titles, ...rows.map((row) => chosen.map(({ i }) => row[i]!))].map((cells) =>
      cut(aligned(cells, chosen, shown), width),
    );
  }
}

/** Null where even the least widths do not fit. */
function narrowed(natural: readonly number[], least: readonly (number | null)[], room: number): number[] | null {
  const widths = [...natural];
  let excess = widths.reduce((sum, one) => sum + one, 0) - room;
  while (excess > 0) {
    let widest = -1;
    for (const [i, one] of widths.entries())
      if (least[i] !== null && one > least[i]! && (widest < 0 || one > widths[widest]!)) widest = i;
    if (widest < 0) return null;
    widths[widest]!--;
    excess--;
  }
  return widths;
}

function aligned(
  cells: readonly Span[],
  columns: readonly { readonly column: Column }[],
  widths: readonly number[],
): Line {
  return cells.flatMap(({ text, style }, i) => {
    const short = cut([{ text, style }], widths[i]!);
    const pad = { text: ' '.repeat(Math.max(0, widths[i]! - widthOf(short))), style: null };
    const gap = { text: ' '.repeat(i === 0 ? 0 : GAP), style: null };
    return columns[i]!.column.align === 'right' ? [gap, pad, ...short] : [gap, ...short, pad];
  });
}

const LEVELS = '▁▂▃▄▅▆▇█';

/** The newest values, scaled to the highest of them; nothing happening is a flat line. */
export function sparkline(values: readonly number[], width: number): string {
  const shown = values.slice(-Math.max(0, width));
  const most = Math.max(...shown, 0);
  return shown
    .map((value) => LEVELS[most > 0 && value > 0 ? Math.min(7, Math.floor((value / most) * 7.999)) : 0])
    .join('');
}

/** As it is written to the terminal. Blanks at the end are left out. */
export function painted(one: Line, paint: Paint): string {
  const text = one.map(({ text, style }) => (style === null || text === '' ? text : paint(style, text))).join('');
  return text.trimEnd();
}
