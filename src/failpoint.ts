/*
 * Places where the process may die, for the crash tests. `WALTIDE_FAILPOINT=after-sink-commit` kills it as -9 does when
 * it comes there first, `after-sink-commit@3` the third time. Without the variable a point costs one comparison.
 */

/** Every point there is, so that a misspelt one cannot pass for a test that never crashed. The crash suite dies at each. */
export const FAILPOINTS = [
  'before-slot',
  'after-slot',
  'during-copy',
  'after-table-copied',
  'before-chunk',
  'chunk-loaded',
  'chunk-committed',
  'after-chunk-before-save',
  'after-chunk-saved',
  'before-snapshot-end',
  'after-produce',
  'before-kafka-commit',
  'after-kafka-commit',
  'before-sink-commit',
  'after-sink-commit',
  'during-ddl',
  'during-spill',
  'during-streamed-delivery',
  'after-letter',
  'before-acknowledge',
  'before-operations-commit',
  'after-operations-commit',
  'during-export',
  'before-export-rename',
  'after-export-rename',
  'during-backup',
  'before-backup-rename',
  'during-restore',
  'before-restore-rename',
  'before-notification',
  'after-notification',
] as const;

export type Failpoint = (typeof FAILPOINTS)[number];

const [name, times] = (process.env.WALTIDE_FAILPOINT ?? '').split('@');
let left = Number(times ?? 1);

/** Dies here, at once and without a word, where the environment says so. */
export function failpoint(point: Failpoint): void {
  if (point === name && --left <= 0) process.kill(process.pid, 'SIGKILL');
}
