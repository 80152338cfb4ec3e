import { createHash } from 'node:crypto';
import type { Relation } from '../../event/relation.ts';

/** A record of the schema topic: what a table looked like, and which topic its changes are in. */
export interface SchemaRecord {
  readonly id: string;
  readonly topic: string;
  readonly relation: Relation;
}

/** The id is a hash of the content, so that the same description is written once, whoever writes it. */
export function describeRelation(relation: Relation, topic: string): SchemaRecord {
  const text = JSON.stringify([topic, relation]);
  return { id: createHash('sha256').update(text).digest('hex').slice(0, 16), topic, relation };
}

export function encodeSchema(record: SchemaRecord): string {
  return JSON.stringify(record);
}

/** Null on a record that is none of ours. */
export function decodeSchema(value: Buffer): SchemaRecord | null {
  try {
    const record = JSON.parse(value.toString()) as SchemaRecord;
    return typeof record.id === 'string' && typeof record.topic === 'string' && record.relation ? record : null;
  } catch {
    return null;
  }
}
