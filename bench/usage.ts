import { readdirSync, readFileSync } from 'node:fs';

/** Linux counts CPU time in these (getconf CLK_TCK); it has been 100 on every architecture for decades. */
const TICKS_PER_SECOND = 100;

/** utime + stime of the process itself, in seconds; 0 when it is gone. */
export function cpuSeconds(pid: number): number {
  const fields = stat(pid);
  return fields ? (fields.utime + fields.stime) / TICKS_PER_SECOND : 0;
}

/** utime + stime of all children that this process has waited for, theirs included: exact, however they ended. */
export function waitedCpuSeconds(): number {
  const fields = stat(process.pid);
  return fields ? fields.waited / TICKS_PER_SECOND : 0;
}

/** The most memory the process has held so far (VmHWM), in bytes; 0 when it is gone. */
export function peakRssBytes(pid: number): number {
  try {
    const kilobytes = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
    return Number(kilobytes ?? 0) * 1024;
  } catch {
    return 0;
  }
}

/** The process and all that descend from it. */
export function processTree(root: number): number[] {
  const parents = new Map<number, number>();
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const fields = stat(Number(name));
    if (fields) parents.set(Number(name), fields.parent);
  }
  const tree = [root];
  for (const pid of tree) for (const [child, parent] of parents) if (parent === pid) tree.push(child);
  return tree;
}

/** CPU and peak memory of a process tree, sampled: a process that has ended keeps its last figures. */
export class TreeMeter {
  readonly #root: number;
  #pids: number[];
  #samples = 0;
  readonly #cpu = new Map<number, number>();
  readonly #rss = new Map<number, number>();

  constructor(root: number) {
    this.#root = root;
    this.#pids = [root];
  }

  sample(): void {
    // Looking for new children reads all of /proc, which would itself show on two cores.
    if (this.#samples++ % 20 === 0) this.#pids = processTree(this.#root);
    for (const pid of this.#pids) {
      const rss = peakRssBytes(pid);
      if (rss === 0) continue;
      this.#rss.set(pid, rss);
      this.#cpu.set(pid, cpuSeconds(pid));
    }
  }

  get cpuSeconds(): number {
    return sum(this.#cpu);
  }

  /** The sum of each process's own peak: an upper bound where there are several. */
  get peakRssBytes(): number {
    return sum(this.#rss);
  }
}

interface Stat {
  readonly parent: number;
  readonly utime: number;
  readonly stime: number;
  readonly waited: number;
}

/** proc(5): after the command in parentheses come state, ppid, …; utime is field 14 of all. */
function stat(pid: number): Stat | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = text
      .slice(text.lastIndexOf(')') + 2)
      .split(' ')
      .map(Number);
    return { parent: fields[1]!, utime: fields[11]!, stime: fields[12]!, waited: fields[13]! + fields[14]! };
  } catch {
    return null;
  }
}

function sum(values: Map<number, number>): number {
  let total = 0;
  for (const value of values.values()) total += value;
  return total;
}
