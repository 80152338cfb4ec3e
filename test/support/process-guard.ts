import { spawn } from 'node:child_process';
import { rmSync } from 'node:fs';
import type { Socket } from 'node:net';

/** $1 = folder to remove. Each line read is a process id, 0 for none, or `end`. */
const SCRIPT = `
trap '' INT TERM HUP
pid=0
while read -r line; do pid=$line; done
[ "$pid" = end ] && exit 0
[ "$pid" -gt 0 ] && kill -KILL "$pid" 2>/dev/null && sleep 0.2
rm -rf "$1"
`;

export interface ProcessGuard {
  /** The process to end with us; null while there is none. */
  watch(pid: number | null): void;
  /** It was stopped in order: nothing is left to guard. */
  end(): void;
}

/**
 * Kills a server and removes its folder when this process ends, even by SIGKILL: a small shell reads from a pipe
 * that only we hold, and acts when the pipe closes. A test server has no data worth an orderly shutdown.
 */
export function guardProcess(home: string): ProcessGuard {
  let pid: number | null = null;
  const watcher = spawn('/bin/sh', ['-c', SCRIPT, 'waltide-test-guard', home], {
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
    cwd: '/',
  });
  watcher.on('error', () => {}); // No shell: the exit handler is what remains.
  watcher.stdin.on('error', () => {});
  watcher.unref();
  (watcher.stdin as Socket).unref();
  const onExit = () => {
    try {
      if (pid !== null) process.kill(pid, 'SIGKILL');
      rmSync(home, { recursive: true, force: true });
    } catch {
      // Gone already, or the shell finishes what we could not.
    }
  };
  process.on('exit', onExit);
  return {
    watch(next) {
      pid = next;
      watcher.stdin.write(`${next ?? 0}\n`);
    },
    end() {
      process.off('exit', onExit);
      watcher.stdin.end('end\n');
    },
  };
}
