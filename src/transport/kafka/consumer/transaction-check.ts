import { WaltideError } from '../../../errors.ts';
import type { ChangeEvent } from '../../../event/change-event.ts';
import { formatLsn, type Lsn } from '../../../event/lsn.ts';
import { relationName } from '../../../event/relation.ts';
import { isMarked, type TransactionBegin, type TransactionEnd } from '../transaction-marks.ts';

/** Prefix of the messages that records of the transaction topic are read as. */
export const MARK_PREFIX = 'waltide.transaction';

export function isMark({ message }: ChangeEvent): boolean {
  return message?.prefix === MARK_PREFIX;
}

/** Counts what has come of one source transaction, and compares it with what its end says. */
export class TransactionCheck {
  readonly commitLsn: Lsn;
  readonly #counts = new Map<string, number>();
  #end: TransactionEnd | null = null;

  constructor(commitLsn: Lsn) {
    this.commitLsn = commitLsn;
  }

  /** Takes an event that stands for so many records, or a mark. */
  take(event: ChangeEvent, records: number): void {
    if (isMark(event)) {
      const mark = JSON.parse(event.message!.content.toString()) as TransactionBegin | TransactionEnd;
      if (mark.status === 'END') this.#end = mark;
    } else if (isMarked(event)) {
      const name = relationName(event.relation!);
      this.#counts.set(name, (this.#counts.get(name) ?? 0) + records);
    }
  }

  /** Throws TRANSACTION_INCOMPLETE where something is missing. To be called once nothing more can come. */
  finish(): void {
    const end = this.#end;
    if (!end) {
      if (this.#counts.size > 0) throw incomplete(this.commitLsn, 'its end is not in the transaction topic');
      return;
    }
    const expected = new Map(end.data_collections.map((item) => [item.data_collection, item.event_count]));
    for (const name of new Set([...expected.keys(), ...this.#counts.keys()])) {
      const [wanted, found] = [expected.get(name) ?? 0, this.#counts.get(name) ?? 0];
      if (wanted !== found) throw incomplete(this.commitLsn, `${name} has ${found} of its ${wanted} changes`);
    }
  }
}

function incomplete(commitLsn: Lsn, what: string): WaltideError {
  return new WaltideError(
    'TRANSACTION_INCOMPLETE',
    `The source transaction that committed at ${formatLsn(commitLsn)} is not whole in Kafka: ${what}`,
    'Retention or someone else removed records, a record was too large (see the dead-letter topic), or transport.transactions ' +
      'was off for a while: copy again with `waltide run --recopy`, or set consistency: table.',
  );
}
