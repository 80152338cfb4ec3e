import { type Alias, isAlias, isMap, isScalar, isSeq, LineCounter, type Node, parseDocument, type YAMLMap } from 'yaml';
import { type Fault, faultAt, type Origin } from './faults.ts';
import { formatPath, type Path, shapeAt } from './shape.ts';
import { convertText, interpolate } from './text.ts';

/** Deeper than any configuration. */
const DEPTH_MAX = 32;
/** More than any configuration; aliases of aliases grow exponentially. */
const NODES_MAX = 20_000;

/** A configuration as written, before it is checked. */
export interface Document {
  value: unknown;
  /** Where each value, by formatted path, came from. */
  readonly values: Map<string, Origin>;
  /** Where each key was written. */
  readonly keys: Map<string, Origin>;
  readonly faults: Fault[];
  /** Paths whose value is already known to be wrong: the schema's opinion of them would say nothing new. */
  readonly broken: Set<string>;
}

export function emptyDocument(value: unknown = {}): Document {
  return { value, values: new Map(), keys: new Map(), faults: [], broken: new Set() };
}

/** Reads YAML or JSON. `file` is the name for messages. Faults of syntax leave an empty value. */
export function readDocument(text: string, file: string, env: NodeJS.ProcessEnv): Document {
  const lines = new LineCounter();
  const parsed = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const document = emptyDocument();
  const originAt = (offset: number): Origin => {
    const { line, col } = lines.linePos(offset);
    return { file, line, column: col };
  };
  let syntax = false;
  for (const error of [...parsed.errors, ...parsed.warnings]) {
    if (error.code === 'DUPLICATE_KEY') continue; // Told below, with its path.
    syntax = true;
    document.faults.push(faultAt(originAt(error.pos[0]), [], explain(error.code, error.message, text, error.pos[0])));
  }
  if (syntax) {
    // One slip makes the rest of a line unreadable in several ways; the first is the one to mend.
    const seen = new Set<number | null>();
    const first = document.faults.filter((fault) => !seen.has(fault.line) && seen.add(fault.line));
    document.faults.splice(0, Number.POSITIVE_INFINITY, ...first);
    return document;
  }
  const walk = new Walk(document, originAt, env, (alias) => alias.resolve(parsed));
  document.value = walk.read(parsed.contents, [], 0) ?? {};
  return document;
}

class Walk {
  readonly #document: Document;
  readonly #originAt: (offset: number) => Origin;
  readonly #env: NodeJS.ProcessEnv;
  readonly #resolve: (alias: Alias) => Node | undefined;
  #nodes = 0;
  /** What is being read just now: an alias to any of it would lead to itself. */
  readonly #open = new Set<Node>();

  constructor(
    document: Document,
    originAt: (offset: number) => Origin,
    env: NodeJS.ProcessEnv,
    resolve: (alias: Alias) => Node | undefined,
  ) {
    this.#document = document;
    this.#originAt = originAt;
    this.#env = env;
    this.#resolve = resolve;
  }

  read(node: unknown, path: Path, depth: number): unknown {
    if (!isMap(node) && !isSeq(node) && !isScalar(node) && !isAlias(node)) return null;
    if (!this.#document.values.has(formatPath(path))) {
      this.#document.values.set(formatPath(path), this.#originAt(node.range?.[0] ?? 0));
    }
    if (depth > DEPTH_MAX || ++this.#nodes > NODES_MAX) {
      if (this.#nodes <= NODES_MAX + 1) this.#fault(node, path, 'is nested too deeply');
      return null;
    }
    if (isAlias(node)) {
      const target = this.#resolve(node);
      if (target && this.#open.has(target)) {
        this.#fault(node, path, `the alias "*${node.source}" leads to itself`);
        return null;
      }
      if (target) return this.read(target, path, depth + 1);
      this.#fault(node, path, `there is no anchor "&${node.source}" before this`);
      return null;
    }
    if (!isScalar(node)) {
      this.#open.add(node);
      const value = isSeq(node)
        ? node.items.map((item, i) => this.read(item, [...path, i], depth + 1))
        : this.#map(node, path, depth);
      this.#open.delete(node);
      return value;
    }
    return typeof node.value === 'string' ? this.#text(node, node.value, path) : node.value;
  }

  #map(map: YAMLMap, path: Path, depth: number): Record<string, unknown> {
    const merged: Record<string, unknown> = {};
    const own: Record<string, unknown> = {};
    for (const pair of map.items) {
      const key = isScalar(pair.key) && pair.key.value !== null ? String(pair.key.value) : null;
      if (key === null) {
        this.#fault(pair.key, path, 'a key must be plain text');
        continue;
      }
      const at = [...path, key];
      if (key === '<<') {
        this.#merge(pair.value, merged, path, depth);
        continue;
      }
      if (Object.hasOwn(own, key)) {
        this.#fault(pair.key, at, 'is written twice; keep one of the two');
        continue;
      }
      this.#document.keys.set(formatPath(at), this.#originOf(pair.key));
      if (pair.value === null) this.#document.values.set(formatPath(at), this.#originOf(pair.key));
      // Object.fromEntries semantics: a key "__proto__" must become a key, not a prototype.
      Object.defineProperty(own, key, { value: this.read(pair.value, at, depth + 1), ...WRITABLE });
    }
    return { ...merged, ...own };
  }

  /** YAML's merge key: `<<: *anchor` or a list of them; the map's own keys win. */
  #merge(value: unknown, merged: Record<string, unknown>, path: Path, depth: number): void {
    const source = this.read(value, [...path, '<<'], depth + 1);
    for (const one of Array.isArray(source) ? [...source].reverse() : [source]) {
      if (one && typeof one === 'object' && !Array.isArray(one)) Object.assign(merged, one);
      else this.#fault(value, path, '"<<" must name the anchor of a map');
    }
  }

  #text(node: unknown, text: string, path: Path): unknown {
    const { text: result, changed, faults } = interpolate(text, this.#env);
    for (const fault of faults) this.#fault(node, path, fault);
    if (faults.length > 0) return result;
    if (!changed) return result;
    try {
      return convertText(result, shapeAt(path));
    } catch (error) {
      this.#fault(node, path, (error as Error).message);
      return result;
    }
  }

  #originOf(node: unknown): Origin {
    return this.#originAt((node as Node | null)?.range?.[0] ?? 0);
  }

  #fault(node: unknown, path: Path, message: string): void {
    this.#document.faults.push(faultAt(this.#originOf(node), path, message));
    this.#document.broken.add(formatPath(path));
  }
}

const WRITABLE = { writable: true, enumerable: true, configurable: true };

/** The parser's words in ours, where a better remedy is known. */
function explain(code: string, message: string, text: string, offset: number): string {
  const line = text.slice(text.lastIndexOf('\n', offset - 1) + 1).split('\n', 1)[0]!;
  if (code === 'TAB_AS_INDENT') return 'a tab is used as indentation; YAML allows only spaces there';
  if (code === 'MULTIPLE_DOCS') return 'a second document begins here ("---"); a configuration is one document';
  if (code === 'BLOCK_AS_IMPLICIT_KEY') {
    return 'two "key:" on one line, or a line indented deeper than its neighbours; put text that holds ": " in quotes';
  }
  if (/[{,[].*\$\{/.test(line)) return `${message}; inside { } and [ ], put \${VAR} in quotes: "\${VAR}"`;
  if (code === 'BAD_SCALAR_START') return `${message}; put the text in quotes`;
  return message;
}
