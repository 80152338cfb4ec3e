/**
 * Every hour at :00 and :30: what the archive holds, for those who look at runs (`waltide history --type hourly`). The stream
 * needs no schedule; this is where a job of one's own goes.
 *
 * @param {import('waltide').Run} run
 * @param {import('waltide').ModuleDeps} deps
 */
export async function run(run, { log, query }) {
  if (!query) throw new Error('this job asks the sink, so it must run in the process of `waltide run`');
  const sql = 'SELECT count(*) AS pages, max(captured_at)::varchar AS newest FROM pages_v2';
  const { rows } = await query(sql, { sink: 'archive', rowsMax: 1, timeoutMs: 30_000 });
  const [pages, newest] = rows[0];
  run.progress({ records: Number(pages), latest: newest });
  log.info({ pages: String(pages), newest }, 'what the archive holds');
}
