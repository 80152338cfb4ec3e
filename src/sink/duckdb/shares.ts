import duckdb, { type DataChunk, type LogicalType } from '@duckdb/node-bindings';
import { CopiedRows } from '../../event/copied-rows.ts';
import { ChunkWriter, type Load } from './chunk.ts';

/** DuckDB's own; a multiple of its vectors. */
const ROW_GROUP = 122_880;

/** One thread's way through a load. */
export interface Taker {
  /** Fills the next chunk; an empty one after the last row. Throws a LoadError. */
  next(output: DataChunk): void;
}

/**
 * A load, shared out to DuckDB's threads. Each gathers what it is given in row groups of its own, and a group that it cannot fill is
 * stored apart, to be put together and compressed once more at the next checkpoint. So copied rows of several groups are given by
 * the group; any other load chunk by chunk.
 */
export class Shares {
  readonly rows: number;
  readonly #writers: readonly ChunkWriter[];
  #next = 0;

  constructor(load: Load, rowBytesMax: number) {
    this.#writers = groupsOf(load).map((group) => new ChunkWriter(group, rowBytesMax));
    this.rows = this.#writers.reduce((sum, { rows }) => sum + rows, 0);
  }

  columns(): { readonly name: string; readonly type: LogicalType }[] {
    return this.#writers[0]!.columns();
  }

  rewind(): void {
    this.#next = 0;
    for (const writer of this.#writers) writer.rewind();
  }

  taker(): Taker {
    const [only, ...others] = this.#writers;
    let mine = others.length > 0 ? null : only!;
    return {
      next: (output) => {
        while (!mine?.next(output)) {
          const next = others.length > 0 ? this.#writers[this.#next++] : undefined;
          if (!next) return duckdb.data_chunk_set_size(output, 0);
          mine = next;
        }
      },
    };
  }
}

/** By the row group, where there are enough of them to keep all threads busy; else as it is. */
function groupsOf(load: Load): Load[] {
  const blocks = load.parts[0]!;
  if (load.parts.length > 1 || load.counts || !isCopied(blocks)) return [load];
  const rows = blocks.reduce((sum, { count }) => sum + count, 0);
  if (rows < 2 * ROW_GROUP) return [load];
  const groups: CopiedRows[][] = [[]];
  let room = ROW_GROUP;
  for (const block of blocks) {
    for (let from = 0; from < block.count; ) {
      if (room === 0) {
        groups.push([]);
        room = ROW_GROUP;
      }
      const part = block.slice(from, Math.min(block.count, from + room));
      groups.at(-1)!.push(part);
      from += part.count;
      room -= part.count;
    }
  }
  return groups.map((group) => ({ ...load, parts: [group] }));
}

const isCopied = (rows: Load['parts'][number]): rows is readonly CopiedRows[] => rows[0] instanceof CopiedRows;
