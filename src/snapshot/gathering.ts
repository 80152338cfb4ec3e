import { type CopiedRows, weightOfCopied } from '../event/copied-rows.ts';

/** How many rows are published together at most, and up to which weight (`weightOf`) they gather. */
export interface Gather {
  readonly rowsMax: number;
  readonly weightMax: number;
}

/**
 * Rows of one table on their way into batches of exactly `rowsMax` rows, so that a store of columns gets whole groups of rows. What
 * several workers read of a table gathers here together.
 */
export class Gathering {
  readonly #options: Gather;
  #parts: CopiedRows[] = [];
  #rows = 0;
  #weight = 0;

  constructor(options: Gather) {
    this.#options = options;
  }

  /** Takes rows in; yields each group that is whole. */
  *add(rows: CopiedRows): Generator<readonly CopiedRows[]> {
    const { rowsMax, weightMax } = this.#options;
    for (let from = 0; from < rows.count; ) {
      const part = rows.slice(from, Math.min(rows.count, from + rowsMax - this.#rows));
      from += part.count;
      this.#parts.push(part);
      this.#rows += part.count;
      this.#weight += weightOfCopied(part.size, part.count);
      if (this.#rows === rowsMax || this.#weight >= weightMax) yield this.rest();
    }
  }

  /** What is left. */
  rest(): readonly CopiedRows[] {
    const parts = this.#parts;
    this.#parts = [];
    this.#rows = 0;
    this.#weight = 0;
    return parts;
  }
}
