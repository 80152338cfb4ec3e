import type { Document } from './document.ts';
import { type Fault, faultAt } from './faults.ts';
import { originOf } from './issues.ts';

/** Webhooks that could not be told apart, or reached. No message holds a URL: it may be a secret. */
export function alertFaults(document: Document): Fault[] {
  const { alerts } = (document.value ?? {}) as { alerts?: { webhooks?: unknown } | null };
  if (!Array.isArray(alerts?.webhooks)) return [];
  const faults: Fault[] = [];
  const first = new Map<string, number>();
  for (const [i, entry] of alerts.webhooks.entries()) {
    if (typeof entry !== 'object' || entry === null) continue;
    const { name, url, urlFile, secret, secretFile } = entry as Record<string, unknown>;
    const fault = (rest: string[], message: string) => {
      const at = ['alerts', 'webhooks', i, ...rest];
      faults.push(faultAt(originOf(document, at), at, message));
    };
    if (typeof name === 'string') {
      const other = first.get(name);
      if (other === undefined) first.set(name, i);
      else fault(['name'], `alerts.webhooks[${other}] has this name too; notifications are queued under it`);
    }
    if ((url === undefined) === (urlFile === undefined))
      fault([], `needs exactly one of url and urlFile, has ${url === undefined ? 'none' : 'both'}`);
    if (secret !== undefined && secretFile !== undefined) fault([], 'has both secret and secretFile; keep one of them');
    const wrong = typeof url === 'string' && /^https?:\/\//.test(url) ? urlFault(url) : null;
    if (wrong) fault(['url'], wrong);
  }
  return faults;
}

/** What is wrong with a webhook's URL; null where nothing is. */
export function urlFault(url: string): string | null {
  if (!URL.canParse(url) || !/^https?:$/.test(new URL(url).protocol))
    return 'is no URL that begins with https:// or http://';
  const { username, password } = new URL(url);
  if (username || password) return 'may hold no user or password; let a secret sign what is sent instead';
  return null;
}
