import type { Config } from '../../config/schema.ts';
import { listApiKeys } from '../../postgres/api-keys.ts';
import { listTables } from '../../postgres/catalog.ts';
import { controlVersion, readSlotRecord } from '../../postgres/control.ts';
import { ddlCaptureState } from '../../postgres/ddl-capture.ts';
import { identify } from '../../postgres/identity.ts';
import { publishedTables, selectTables } from '../../postgres/publication.ts';
import { readSchedules } from '../../postgres/schedules.ts';
import { readSlot } from '../../postgres/slot.ts';
import { querySinkAtRest } from '../../sink/registry.ts';
import {
  type Check,
  type CheckResult,
  type DatabaseSubject,
  type Finding,
  fail,
  few,
  ok,
  warn,
} from '../doctor/check.ts';
import { formatTable, type Paint } from '../output.ts';

/** Reading two rows of a small table. */
const QUERY = { rowsMax: 2, timeoutMs: 10_000 };

/** What `waltide setup --all` leaves behind: not that it can be made, as `waltide doctor` asks, but that it is there. */
export function setupChecks(config: Config): readonly Check<DatabaseSubject>[] {
  return [
    { name: 'setup: control schema', run: control },
    { name: 'setup: publication', run: publication },
    { name: 'setup: slot', run: slot },
    { name: 'setup: capture trigger', run: trigger },
    ...config.sinks.map((sink) => ({
      name: `setup: sink ${sink.name}`,
      run: (subject: DatabaseSubject) => sinkStore(sink, subject),
    })),
    { name: 'setup: schedules', run: schedules },
    { name: 'setup: API keys', run: keys },
  ];
}

const CDC = 'Run `waltide setup --setup-cdc`.';

async function control({ client }: DatabaseSubject): Promise<Finding> {
  const version = await controlVersion(client);
  if (version === 'current') return ok('schema waltide is of this version');
  return fail(`schema waltide is ${version === 'absent' ? 'not there' : 'of an older version'}`, CDC);
}

async function publication({ client, config: { source } }: DatabaseSubject): Promise<Finding> {
  const { tables, keyless } = selectTables(await listTables(client), source, true);
  const names = [source.publication, `${source.publication}_inserts`];
  const carried = new Set((await publishedTables(client, names)).map(({ schema, table }) => `${schema}.${table}`));
  const wanted = [...tables, ...keyless].map(({ schema, table }) => `${schema}.${table}`);
  const missing = wanted.filter((name) => !carried.has(name));
  if (missing.length > 0) return fail(`"${source.publication}" does not carry ${few(missing)}`, CDC);
  return ok(`"${source.publication}" carries ${few(wanted, 12)}`);
}

async function slot({ client, slotClient, config: { source } }: DatabaseSubject): Promise<Finding> {
  const found = await readSlot(slotClient, source.slot);
  const record = await readSlotRecord(client, source.slot);
  if (!found && record?.state === 'streaming')
    return fail(
      `"${source.slot}" is gone, though its first copy was finished`,
      'Copy every table anew: `waltide run --recopy`.',
    );
  if (!found) return fail(`"${source.slot}" is not there`, CDC);
  if (!record)
    return fail(
      `"${source.slot}" was made by somebody else`,
      'Choose another source.slot, or drop it with `waltide slot drop` if nothing needs it.',
    );
  if (found.invalidation !== null)
    return fail(`"${source.slot}" is lost (${found.invalidation})`, 'Copy every table anew: `waltide run --recopy`.');
  const words = {
    prepared: 'existing rows are copied by the first run',
    copying: 'the first copy is not finished; the next run goes on with it',
    streaming: 'existing rows are copied',
  };
  return ok(`"${source.slot}": ${words[record.state]}`);
}

async function trigger({ client }: DatabaseSubject): Promise<Finding> {
  const state = await ddlCaptureState(client);
  if (state === 'current') return ok('is installed');
  return warn(`is ${state}: schema changes are followed less exactly`, 'Run `waltide setup --ddl` as a superuser.');
}

async function sinkStore(
  sink: Config['sinks'][number],
  { found, config, slotClient }: DatabaseSubject,
): Promise<Finding> {
  const holder = found.running.find(({ status }) => status.sinks.some(({ name }) => name === sink.name));
  if (holder) return ok(`${sink.path} is held open by the running process ${holder.file.pid}`);
  const remedy = 'Run `waltide setup --create-duckdb`.';
  const sql = 'SELECT system_identifier, slot, "database" FROM _waltide.identity';
  const { rows } = await querySinkAtRest(sink, sql, QUERY).then(
    (result) => result ?? { rows: [] },
    (error: unknown) => {
      if (/there is no file|does not exist/i.test(String(error))) return { rows: [] };
      throw error;
    },
  );
  const [row] = rows;
  if (!row) return fail(`${sink.path} is not there, or not Waltide's`, remedy);
  const identity = await identify(slotClient, config.source.slot);
  if (row[0] !== identity.systemIdentifier || row[1] !== identity.slot || row[2] !== identity.database)
    return fail(
      `${sink.path} follows slot ${row[1]} of database ${row[2]} in cluster ${row[0]}`,
      'Give the sink another path, or move that file away.',
    );
  return ok(`${sink.path} follows this slot`);
}

async function schedules({ client, config }: DatabaseSubject): Promise<Finding> {
  const names = config.schedules.map(({ name }) => name);
  if (names.length === 0) return ok('none are configured');
  const known = await readSchedules(client, config.source.slot);
  const missing = names.filter((name) => !known.has(name));
  return missing.length > 0
    ? fail(`not known yet: ${few(missing)}`, 'Run `waltide setup --initialize-services`.')
    : ok(few(names, 12));
}

async function keys({ client, config: { api } }: DatabaseSubject): Promise<Finding> {
  if (!api.enabled) return ok('the API is turned off');
  if (!api.auth.includes('keys')) return ok(`not needed: api.auth is ${api.auth}`);
  const good = (await listApiKeys(client)).filter(({ revokedAt }) => revokedAt === null);
  if (good.length === 0)
    return warn('none yet, so nobody can use the API', 'Run `waltide api-key create NAME --role operator`.');
  return ok(few(good.map(({ name, role }) => `${name} (${role})`)));
}

const STYLES = { ok: 'green', warn: 'yellow', fail: 'red', skip: 'dim' } as const;

/** A table of all checks; beneath it, what to do about those that do not hold. */
export function checksTable(checks: readonly CheckResult[], paint: Paint): string {
  const table = formatTable(
    [{ title: 'check' }, { title: 'status' }, { title: 'what was found' }],
    checks.map(({ name, status, detail }) => [name, status, detail]),
  );
  const lines = table.split('\n').map((line, i) => {
    const check = checks[i - 2];
    return check ? line.replace(` ${check.status} `, (word) => paint(STYLES[check.status], word)) : line;
  });
  const remedies = checks.flatMap(({ name, status, remedy }) =>
    remedy === null ? [] : [`${paint(STYLES[status], status)}  ${name}: ${remedy}`],
  );
  return [...lines, ...(remedies.length > 0 ? ['', 'What to do:', ...remedies] : [])].join('\n');
}
