import pg from 'pg';
import { migrate } from '../../src/postgres/control.ts';
import { installDdlCapture } from '../../src/postgres/ddl-capture.ts';
import type { TestDatabase } from '../support/postgres.ts';
import { Random } from '../support/random.ts';
import { TABLES } from '../support/workload.ts';
import type { Provocation } from './plan.ts';

/** What `waltide setup --ddl` installs. */
export async function installTrigger(url: string): Promise<void> {
  const client = new pg.Client(url);
  await client.connect();
  try {
    await migrate(client);
    await installDdlCapture(client);
  } finally {
    await client.end();
  }
}

/** Makes something happen in the source that the workload alone does not do. */
export async function provoke(what: Provocation, database: TestDatabase, seed: number): Promise<void> {
  const random = new Random(seed);
  if (what === 'snapshot') await requestSnapshot(database, random.pick(TABLES));
  else if (what === 'ddl') await database.query(schemaChange(random));
  else
    await database.query(
      `DELETE FROM renamed_key WHERE code LIKE 'large%';
       INSERT INTO renamed_key SELECT 'large' || g, repeat('y', 3000) || ${seed}, 0 FROM generate_series(1, 300) g`,
    );
}

/** As `waltide snapshot start` does; nothing where one of the table is under way. */
async function requestSnapshot(database: TestDatabase, name: string): Promise<void> {
  const [schema, table] = name.split('.');
  await database.query(
    `INSERT INTO waltide.snapshots (id, slot_name, table_oid, schema_name, table_name, reason)
     SELECT left(md5(random()::text), 12), $1, $2::regclass, $3, $4, 'crash test' ON CONFLICT DO NOTHING`,
    [database.name, name, schema, table],
  );
}

/** Only columns that the workload does not name. Without the trigger a default for rows that are there is not told. */
function schemaChange(random: Random): string {
  const name = random.pick(['extra', 'more', 'other']);
  return random.pick([
    `ALTER TABLE account ADD COLUMN IF NOT EXISTS ${name} int`,
    `ALTER TABLE account ADD COLUMN IF NOT EXISTS ${name} int DEFAULT 7`,
    `ALTER TABLE account DROP COLUMN IF EXISTS ${name}`,
    `ALTER TABLE account ADD COLUMN IF NOT EXISTS ${name} int; ALTER TABLE account ALTER COLUMN ${name} TYPE bigint`,
    `ALTER TABLE account DROP COLUMN IF EXISTS "New ${name}", ADD COLUMN IF NOT EXISTS ${name} int;
     ALTER TABLE account RENAME COLUMN ${name} TO "New ${name}"`,
  ]);
}
