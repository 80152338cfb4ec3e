import { z } from 'zod';
import { compression, keep, rowGroupSize } from '../../config/schema/exports.ts';
import {
  backupName,
  backupRunType,
  exportRunType,
  heldSink,
  runBackup,
  runExport,
  sinkConfig,
} from '../../control/store-runs.ts';
import { requireRole } from '../access.ts';
import { writablePath } from '../paths.ts';
import { Accepted, type Deps, defineRoute } from '../route.ts';
import { sinkName, startedRun, table } from '../schemas/common.ts';

const to = (dir: string, usual: string) =>
  z
    .string()
    .min(1)
    .max(1000)
    .describe(`a path below ${dir}; on the control address also an absolute one; default: ${usual}`);

const column = z.string().min(1).max(127);

const exported = defineRoute({
  method: 'POST',
  url: '/sinks/:name/export',
  role: 'operator',
  summary: 'Write tables of a sink as Parquet, all as of one position',
  description: 'A run: its `sync_metadata` says where the export is, and as of which LSN, once it has succeeded.',
  params: { name: sinkName },
  body: z.strictObject({
    to: to('api.exportDir', 'the name of the sink').optional(),
    tables: z.array(table).min(1).max(10_000).optional().describe('all that the sink holds when left out'),
    partition_by: z.array(column).max(20).optional().describe('columns whose values make directories, col=value'),
    where: z
      .string()
      .min(1)
      .max(100_000)
      .optional()
      .describe("a condition in the sink's SQL, on that table's columns; needs role admin"),
    compression: compression.optional(),
    row_group_size: rowGroupSize.optional(),
    keep: keep.optional().describe('how many exports stay in the directory'),
  }),
  reply: startedRun,
  accepted: startedRun,
  audited: ({ body: { to, tables } }) => ({ to, tables }),
  run: async ({ params: { name }, body, principal }, deps) => {
    check(deps, name);
    // Its errors, which every viewer is shown, could tell any value.
    if (body.where !== undefined) requireRole(principal, 'admin', 'a condition in SQL');
    const { partition_by: partitionBy, row_group_size, tables, where } = body;
    const wish = {
      to: await writablePath(deps, 'exportDir', body.to ?? name),
      ...(tables && { tables }),
      ...(partitionBy && { partitionBy }),
      ...(where && { where }),
      ...(body.compression && { compression: body.compression }),
      ...(row_group_size && { rowGroupSize: row_group_size }),
      ...(body.keep && { keep: body.keep }),
    };
    const syncType = exportRunType(name);
    const runId = await deps.tracker.start(syncType, (run) => runExport(deps, name, wish, run));
    return new Accepted({ run_id: runId, sync_type: syncType });
  },
});

const backup = defineRoute({
  method: 'POST',
  url: '/sinks/:name/backup',
  role: 'admin',
  summary: 'Copy the store of a sink, offsets included',
  description: 'A run: its `sync_metadata` says where the copy is, and as of which LSN, once it has succeeded.',
  params: { name: sinkName },
  body: z.strictObject({ to: to('api.backupDir', 'the sink and the time').optional() }),
  reply: startedRun,
  accepted: startedRun,
  audited: ({ body: { to } }) => ({ to }),
  run: async ({ params: { name }, body }, deps) => {
    check(deps, name);
    const path = await writablePath(deps, 'backupDir', body.to ?? backupName(name, new Date()));
    const syncType = backupRunType(name);
    const runId = await deps.tracker.start(syncType, (run) => runBackup(deps, name, path, run));
    return new Accepted({ run_id: runId, sync_type: syncType });
  },
});

/** Before anything is accepted. */
function check({ config, pipeline }: Deps, name: string): void {
  sinkConfig(config, name);
  heldSink(pipeline, name);
}

export const storeRoutes = [exported, backup];
