import type { Document } from './document.ts';
import { type Fault, faultAt } from './faults.ts';
import { originOf } from './issues.ts';

/** Names that stand twice, and sinks that there are not. */
export function scheduleFaults(document: Document): Fault[] {
  const { schedules, sinks } = (document.value ?? {}) as { schedules?: unknown; sinks?: unknown };
  if (!Array.isArray(schedules)) return [];
  const known = Array.isArray(sinks) ? sinks.map((sink: { name?: unknown } | null) => sink?.name) : [];
  const faults: Fault[] = [];
  const first = new Map<string, number>();
  for (const [i, entry] of schedules.entries()) {
    if (typeof entry !== 'object' || entry === null) continue;
    const { name, sink, sinks: several } = entry as Record<string, unknown>;
    const fault = (rest: (string | number)[], message: string) => {
      const at = ['schedules', i, ...rest];
      faults.push(faultAt(originOf(document, at), at, message));
    };
    if (typeof name === 'string') {
      const other = first.get(name);
      if (other === undefined) first.set(name, i);
      else fault(['name'], `schedules[${other}] has this name too; runs are recorded under it`);
    }
    const unknown = `there is no such sink; there are: ${known.join(', ') || 'none'}`;
    if (typeof sink === 'string' && !known.includes(sink)) fault(['sink'], unknown);
    if (!Array.isArray(several)) continue;
    for (const [n, one] of several.entries())
      if (typeof one === 'string' && !known.includes(one)) fault(['sinks', n], unknown);
  }
  return faults;
}
