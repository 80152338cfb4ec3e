import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';

/*
 * Style that no linter of ours checks, in the spirit of TigerBeetle's tidy.zig: cheap, blunt and without exceptions,
 * so that nobody has to argue about it in a review.
 */

const root = fileURLToPath(new URL('..', import.meta.url));

interface Source {
  readonly file: string;
  readonly text: string;
  readonly lines: readonly string[];
}

function read(folder: string): Source[] {
  let entries: string[];
  try {
    entries = readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' });
  } catch {
    return [];
  }
  return entries
    .filter((entry) => /\.(ts|mjs|sql)$/.test(entry) && !/(^|\/)(node_modules|\.cache|\.work)\//.test(entry))
    .map((entry) => {
      const text = readFileSync(join(root, folder, entry), 'utf8');
      return { file: relative(root, join(root, folder, entry)), text, lines: text.replace(/\n$/, '').split('\n') };
    });
}

const src = read('src');
const tests = read('test').filter(({ file }) => file !== 'test/tidy.test.ts');
const all = [...src, ...tests, ...read('bench'), ...read('examples'), ...read('sql')];

/** `file:line` of every line that `wrong` objects to. */
function places(sources: readonly Source[], wrong: (line: string) => boolean): string[] {
  return sources.flatMap(({ file, lines }) => lines.flatMap((line, i) => (wrong(line) ? [`${file}:${i + 1}`] : [])));
}

describe('tidy', () => {
  it('contract files fit on one page (60 lines)', () => {
    const contracts = ['src/transport/transport.ts', 'src/sink/sink.ts', 'src/event/codec.ts'];
    const found = src.filter(({ file }) => contracts.includes(file));
    expect(found.map(({ file }) => file).sort()).toEqual(contracts.sort());
    expect(found.filter(({ lines }) => lines.length >= 60).map(({ file }) => file)).toEqual([]);
  });

  it('files in src are under 400 lines', () => {
    expect(src.filter(({ lines }) => lines.length >= 400).map(({ file, lines }) => `${file}: ${lines.length}`)).toEqual(
      [],
    );
  });

  it('functions in src are under 70 lines', () => {
    expect(src.filter(({ file }) => file.endsWith('.ts')).flatMap(longFunctions)).toEqual([]);
  });

  it('lines are at most 140 characters long, not counting what a formatter cannot break: one long literal', () => {
    const literal = /`[^`]*`|'[^']*'|"[^"]*"|\/\^.*\/i?/g;
    expect(
      places(
        all,
        (line) => line.length > 140 && line.replace(literal, '').length > (/^\s*(\/?\*|\/\/)/.test(line) ? 140 : 190),
      ),
    ).toEqual([]);
  });

  it('nothing is left to do, and nothing was left in while looking for a fault', () => {
    expect(places(all, (line) => /\b(TODO|FIXME|XXX)\b|\bdebugger;/.test(line))).toEqual([]);
    expect(places(tests, (line) => /\b(it|test|describe)\.only\b/.test(line))).toEqual([]);
  });

  it('console is for the command line only', () => {
    const quiet = src.filter(({ file }) => !file.startsWith('src/cli/'));
    expect(places(quiet, (line) => /\bconsole\.(log|info|debug|warn|error)\(/.test(line))).toEqual([]);
  });

  it('has no barrels: one index.ts, the public face', () => {
    const barrels = src.filter(({ file }) => file.endsWith('/index.ts')).map(({ file }) => file);
    expect(barrels.filter((file) => file !== 'src/index.ts')).toEqual([]);
  });

  it('no tabs, no trailing blanks, one newline at the end', () => {
    expect(places(all, (line) => /\t|\s$/.test(line))).toEqual([]);
    expect(all.filter(({ text }) => text !== '' && !/[^\n]\n$/.test(text)).map(({ file }) => file)).toEqual([]);
  });
});

function longFunctions({ file, text }: Source): string[] {
  const found: string[] = [];
  const parsed = ts.createSourceFile(file, text, ts.ScriptTarget.ES2023, true);
  const lineOf = (at: number) => parsed.getLineAndCharacterOfPosition(at).line;
  const visit = (node: ts.Node): void => {
    if (ts.isFunctionLike(node)) {
      const length = lineOf(node.end) - lineOf(node.getStart(parsed)) + 1;
      if (length >= 70) found.push(`${file}:${lineOf(node.getStart(parsed)) + 1}: ${length} lines`);
    }
    ts.forEachChild(node, visit);
  };
  visit(parsed);
  return found;
}
