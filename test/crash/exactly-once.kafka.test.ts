import { Kafka, logLevel } from 'kafkajs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { Random } from '../support/random.ts';
import { ensureSharedKafka } from '../support/shared-kafka.ts';
import { startWaltide, waltide, writeConfig } from '../support/waltide-process.ts';
import { runWorkload, SCHEMA, TABLES } from '../support/workload.ts';

/*
 * Goal: with transport.exactlyOnce, a read_committed consumer that knows nothing of Waltide sees every change exactly
 * once, whenever the capture is killed. Method: kafkajs reads along from the beginning to the end and keeps every
 * record; the oracle is the number of changes that triggers in the database counted, and the order of (lsn, seq).
 */
const ROUNDS = Number(process.env.WALTIDE_CRASH_ROUNDS ?? 20);
const SEED = Number(process.env.WALTIDE_CRASH_SEED ?? Date.now() % 1_000_000);

describe('kill -9 of an exactly-once capture', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase();
  });
  afterAll(() => database.drop());

  it(
    'shows a read_committed consumer every change exactly once',
    async () => {
      console.info(`crash test: ${ROUNDS} rounds, seed ${SEED}`);
      const random = new Random(SEED);
      const brokers = await ensureSharedKafka();
      const prefix = database.name;
      await database.query(SCHEMA);
      await database.query(COUNTING);
      const { file } = writeConfig({
        source: {
          url: database.url,
          slot: database.name,
          publication: database.name,
          tables: ['public.*', 'sales.*'],
          exclude: ['public.counted'],
          heartbeatIntervalMs: 500,
        },
        transport: { type: 'kafka', brokers, topicPrefix: prefix, exactlyOnce: true, transactions: { enabled: true } },
      });
      const arguments_ = ['--role', 'capture', '--config', file];
      expect((await waltide(['run', ...arguments_, '--until-caught-up'])).code).toBe(0);
      const consumer = new Kafka({ brokers, logLevel: logLevel.NOTHING }).consumer({ groupId: `${prefix}-all` });
      const seen: string[] = [];
      await consumer.connect();
      const topics = TABLES.map((table) => `${prefix}.${table}`);
      await consumer.subscribe({ topics, fromBeginning: true });
      await consumer.run({
        eachMessage: async ({ message: { headers, value } }) => {
          if (!value || String(headers?.['waltide.txn']).split(',')[2] !== '0') return;
          const part = headers?.['waltide.key-change'] ?? JSON.parse(value.toString()).op;
          seen.push(`${headers!['waltide.lsn']}#${headers!['waltide.seq']}#${part}`);
        },
      });
      for (let round = 0; round < ROUNDS; round++) {
        const writing = new AbortController();
        const workload = runWorkload(database.url, SEED * 1000 + round, writing.signal, 2);
        const point = random.pick(['before-kafka-commit', 'after-kafka-commit', 'after-produce', 'before-acknowledge']);
        const env = random.int(2) === 0 ? { WALTIDE_FAILPOINT: `${point}@${1 + random.int(6)}` } : {};
        const process = startWaltide(['run', ...arguments_], env as NodeJS.ProcessEnv);
        // Killed before it streams, it could not write anything twice, and the test could not fail.
        await Promise.race([process.saw(/streaming/).catch(() => {}), process.finished]);
        await Promise.race([new Promise((resolve) => setTimeout(resolve, 50 + random.int(700))), process.finished]);
        process.child.kill('SIGKILL');
        const { code, stderr } = await process.finished;
        expect(code, `round ${round}, seed ${SEED}: ended by itself: ${stderr}`).toBeNull();
        writing.abort();
        await workload;
      }
      const caughtUp = await waltide(['run', ...arguments_, '--until-caught-up']);
      expect(caughtUp.code, caughtUp.stderr).toBe(0);
      const [{ changes }] = (await database.query('select sum(n)::int as changes from counted')) as [
        { changes: number },
      ];
      // A changed key is one change for the database and two records.
      const changesSeen = () => new Set(seen.map((text) => text.split('#').slice(0, 2).join('#'))).size;
      for (const end = Date.now() + 90_000; Date.now() < end && changesSeen() < changes; )
        await new Promise((r) => setTimeout(r, 50));
      await consumer.disconnect();
      expect(changes).toBeGreaterThan(ROUNDS * 20);
      expect(seen.length, `seed ${SEED}: nothing twice`).toBe(new Set(seen).size);
      expect(changesSeen(), `seed ${SEED}: nothing lost`).toBe(changes);
    },
    180_000 + ROUNDS * 15_000,
  );
});

/** Every change of every table, counted by the database in the transaction that makes it. */
const COUNTING = `
CREATE TABLE counted (n int);
CREATE FUNCTION count_one() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO counted VALUES (1); RETURN NULL; END';
${TABLES.map((table) => `CREATE TRIGGER counting AFTER INSERT OR UPDATE OR DELETE ON ${table} FOR EACH ROW EXECUTE FUNCTION count_one();`).join('\n')}
${TABLES.map((table) => `CREATE TRIGGER counting_truncate AFTER TRUNCATE ON ${table} FOR EACH STATEMENT EXECUTE FUNCTION count_one();`).join('\n')}
`;
