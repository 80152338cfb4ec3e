import type { Config } from '../../src/config/schema.ts';
import { connect } from '../../src/postgres/connection.ts';
import { requestSnapshot } from '../../src/postgres/snapshots.ts';
import type { TestDatabase } from './postgres.ts';

/** As `waltide snapshot start TABLE` does, of a table of schema public. */
export async function askForSnapshot(database: TestDatabase, config: Config, table: string): Promise<void> {
  const [row] = await database.query('select $1::regclass::oid::int as oid', [`public.${table}`]);
  const client = await connect(database.url, { applicationName: 'test', timeoutMs: 5000 });
  const wanted = { oid: row!.oid as number, schema: 'public', table };
  await requestSnapshot(client, { slot: config.source.slot, table: wanted, reason: 'test' }).finally(() =>
    client.end(),
  );
}
