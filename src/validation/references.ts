import type pg from 'pg';
import { type Relation, relationName } from '../event/relation.ts';
import { queryError } from '../postgres/connection.ts';
import type { PublishedTable } from '../postgres/publication.ts';
import type { ReferenceResult } from './report.ts';
import { keyName } from './row-text.ts';
import type { ValidatedSink, ValidationRun } from './run.ts';
import { relationOf } from './source-table.ts';
import type { Orphan, Reference } from './validation.ts';

const ORPHANS_MAX = 1000;
/** Tables of a sink may be some transactions apart from one another; what is broken stays broken. */
const LOOKS = 3;

const FOREIGN_KEYS = `
SELECT c.conname AS name, c.conrelid::int8::float8 AS "from", c.confrelid::int8::float8 AS "to",
  (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(c.conkey) WITH ORDINALITY AS k (attnum, n)
     JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum) AS columns,
  (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(c.confkey) WITH ORDINALITY AS k (attnum, n)
     JOIN pg_catalog.pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum) AS "toColumns"
FROM pg_catalog.pg_constraint c WHERE c.contype = 'f' AND c.conparentid = 0 AND c.conrelid = ANY ($1) AND c.confrelid = ANY ($2)
ORDER BY c.conrelid, c.conname`;

interface ForeignKey {
  readonly name: string;
  readonly from: number;
  readonly to: number;
  readonly columns: readonly string[];
  readonly toColumns: readonly string[];
}

/** Foreign keys that the source has, asked in the sinks. */
export async function brokenReferences(
  run: ValidationRun,
  sinks: readonly ValidatedSink[],
  published: readonly PublishedTable[],
  chosen: readonly PublishedTable[],
): Promise<ReferenceResult[]> {
  const results: ReferenceResult[] = [];
  const relations = new Map<number, Relation>();
  for (const { name, from, to, columns, toColumns } of await foreignKeys(run.control, chosen, published)) {
    for (const oid of [from, to])
      if (!relations.has(oid))
        relations.set(oid, await relationOf(run.control, published.find((table) => table.oid === oid)!));
    const reference: Reference = { from: relations.get(from)!, columns, to: relations.get(to)!, toColumns };
    for (const sink of sinks) {
      const orphans = await lasting(run, sink, reference);
      if (orphans.length === 0) continue;
      const table = relationName(reference.from);
      results.push({ sink: sink.name, table, constraint: name, references: relationName(reference.to), orphans });
    }
  }
  return results;
}

async function foreignKeys(
  client: pg.Client,
  chosen: readonly PublishedTable[],
  published: readonly PublishedTable[],
): Promise<ForeignKey[]> {
  try {
    const oids = [chosen, published].map((tables) => tables.map(({ oid }) => oid));
    return (await client.query<ForeignKey>(FOREIGN_KEYS, oids)).rows;
  } catch (error) {
    throw queryError(error, 'reading foreign keys');
  }
}

/** Those that are there in every look, while the sink goes on. */
async function lasting(
  { source, signal }: ValidationRun,
  sink: ValidatedSink,
  reference: Reference,
): Promise<Orphan[]> {
  const find = (): Promise<Orphan[]> => sink.digests.orphans(reference, ORPHANS_MAX, signal);
  let orphans = await find();
  for (let look = 1; look < LOOKS && orphans.length > 0; look++) {
    await sink.passed(await source.now(), signal);
    const before = new Set(orphans.map(({ key }) => keyName(key)));
    orphans = (await find()).filter(({ key }) => before.has(keyName(key)));
  }
  return orphans;
}
