import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Socket } from 'node:net';

/**
 * Ends a server together with this process, even where the process is killed with SIGKILL and no handler runs:
 * a small shell process reads from a pipe that only we hold, and acts when the pipe closes.
 */
export interface Guard {
  /** The server's process id, or null while it is down. */
  watch(pid: number | null): void;
  /** The server was stopped in order; nothing is left to guard. */
  end(): Promise<void>;
}

/** $1 = folder to remove (or empty). Each line read is the process id, 0 for none, or `end`. */
const SCRIPT = `
trap '' INT TERM HUP
pid=0
while read -r line; do pid=$line; done
[ "$pid" = end ] && exit 0
if [ "$pid" -gt 0 ]; then
  kill -QUIT "$pid" 2>/dev/null
  tries=0
  while kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 100 ]; do sleep 0.05; tries=$((tries + 1)); done
  kill -KILL "$pid" 2>/dev/null
fi
[ -n "$1" ] && rm -rf "$1"
exit 0
`;

/** Guards one cluster. `temporaryHome` is removed too when this process ends before `end()`. */
export function startGuard(temporaryHome: string | null): Guard {
  let pid: number | null = null;
  let watcher: ChildProcess | null = null;
  if (process.platform !== 'win32') {
    watcher = spawn('/bin/sh', ['-c', SCRIPT, 'waltide-postgres-guard', temporaryHome ?? ''], {
      detached: true,
      stdio: ['pipe', 'ignore', 'ignore'],
      cwd: '/',
    });
    watcher.on('error', () => {}); // No shell: the exit handler below is what remains.
    watcher.stdin?.on('error', () => {});
    watcher.unref();
    (watcher.stdin as Socket | null)?.unref();
  }
  const onExit = () => {
    if (pid === null) return;
    try {
      process.kill(pid, process.platform === 'win32' ? 'SIGKILL' : 'SIGQUIT');
    } catch {
      // Gone already.
    }
  };
  process.on('exit', onExit);
  return {
    watch(next) {
      pid = next;
      watcher?.stdin?.write(`${next ?? 0}\n`);
    },
    async end() {
      process.off('exit', onExit);
      if (!watcher || watcher.exitCode !== null || watcher.pid === undefined) return;
      watcher.ref(); // Otherwise the event loop may run dry while we wait.
      const exited = once(watcher, 'exit');
      watcher.stdin?.end('end\n');
      await exited;
    },
  };
}
