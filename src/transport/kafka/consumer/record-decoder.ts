import { WaltideError } from '../../../errors.ts';
import type { Transaction } from '../../../event/change-event.ts';
import type { RecordMeta } from '../../../event/codec.ts';
import { parseLsn } from '../../../event/lsn.ts';
import type { Relation } from '../../../event/relation.ts';
import { HEADER, parseSnapshot } from '../header.ts';
import type { RecordCursor } from '../record-reader.ts';

const NONE: readonly number[] = [];
const NAMES = Object.entries(HEADER).map(([field, name]) => ({
  field: field as keyof typeof HEADER,
  bytes: Buffer.from(name),
}));

/**
 * Reads what the headers of one record say. Transactions and relations repeat from record to record, and are
 * parsed only when their bytes change, which also makes events of one transaction share one object.
 */
export class HeaderDecoder {
  readonly #relations: ReadonlyMap<string, Relation>;
  transaction: Transaction | null = null;
  seq = -1;
  keyChange: '' | 'c' | 'd' = '';
  /** Null for a record without a relation header; undefined where the relation's id is not known yet. */
  relation: Relation | null | undefined = null;
  relationId = '';
  unchanged: readonly number[] = NONE;
  #lsnBytes: Buffer = Buffer.alloc(0);
  #transactionBytes: Buffer = Buffer.alloc(0);
  #relationBytes: Buffer = Buffer.alloc(0);
  #cursor: RecordCursor | null = null;
  #changed = false;

  constructor(relations: ReadonlyMap<string, Relation>) {
    this.#relations = relations;
  }

  /** Fills the fields. False where the record is none that Waltide wrote. */
  read(cursor: RecordCursor): boolean {
    this.seq = -1;
    this.keyChange = '';
    this.unchanged = NONE;
    this.#changed = false;
    this.#cursor = cursor;
    const before = this.relationId;
    this.relationId = '';
    cursor.eachHeader(this.#visit);
    if (this.#changed) this.transaction = this.#parseTransaction();
    if (this.relationId === '') this.relation = null;
    else if (this.relationId !== before || !this.relation) this.relation = this.#relations.get(this.relationId);
    return this.seq >= 0 && this.transaction !== null;
  }

  meta(): RecordMeta {
    return {
      transaction: this.transaction!,
      seq: this.seq,
      unchanged: this.unchanged,
      relation: this.relation ?? null,
    };
  }

  readonly #visit = (nameAt: number, nameEnd: number, valueAt: number, valueEnd: number): void => {
    const { bytes } = this.#cursor!;
    for (let i = 0; i < NAMES.length; i++) {
      const { field, bytes: name } = NAMES[i]!;
      if (!same(name, bytes, nameAt, nameEnd)) continue;
      this.#take(field, bytes, valueAt, valueEnd);
      return;
    }
  };

  #take(field: keyof typeof HEADER, bytes: Buffer, at: number, end: number): void {
    if (field === 'seq') this.seq = decimal(bytes, at, end);
    else if (field === 'lsn') {
      if (same(this.#lsnBytes, bytes, at, end)) return;
      this.#lsnBytes = Buffer.from(bytes.subarray(at, end));
      this.#changed = true;
    } else if (field === 'transaction') {
      if (same(this.#transactionBytes, bytes, at, end)) return;
      this.#transactionBytes = Buffer.from(bytes.subarray(at, end));
      this.#changed = true;
    } else if (field === 'relation') {
      if (!same(this.#relationBytes, bytes, at, end)) {
        this.#relationBytes = Buffer.from(bytes.subarray(at, end));
        this.#relationText = this.#relationBytes.toString();
      }
      this.relationId = this.#relationText;
    } else if (field === 'unchanged') this.unchanged = bytes.toString('latin1', at, end).split(',').map(Number);
    else this.keyChange = bytes[at] === 0x64 ? 'd' : 'c';
  }

  #relationText = '';

  #parseTransaction(): Transaction {
    const [xid, time, snapshot, ...origin] = this.#transactionBytes.toString().split(',');
    try {
      return {
        xid: Number(xid),
        commitLsn: parseLsn(this.#lsnBytes.toString()),
        commitTimeUs: BigInt(time!),
        snapshot: parseSnapshot(snapshot ?? ''),
        origin: origin.join(',') || null,
      };
    } catch (cause) {
      throw new WaltideError(
        'PROTOCOL',
        `unreadable headers ${HEADER.lsn} "${this.#lsnBytes}", ${HEADER.transaction} "${this.#transactionBytes}"`,
        'Waltide must be the only writer of its topics.',
        { cause },
      );
    }
  }
}

function same(known: Buffer, bytes: Buffer, at: number, end: number): boolean {
  if (known.length !== end - at) return false;
  // Some twenty bytes: a loop is several times as fast as a call into native code.
  for (let i = 0; i < known.length; i++) if (known[i] !== bytes[at + i]) return false;
  return true;
}

function decimal(bytes: Buffer, at: number, end: number): number {
  let value = 0;
  for (let i = at; i < end; i++) value = value * 10 + bytes[i]! - 48;
  return value;
}
