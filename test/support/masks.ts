import { createHmac } from 'node:crypto';
import type { ConfigInput } from '../../src/config/schema.ts';
import { deriveKeys } from '../../src/protect/keys.ts';
import { unmask } from '../../src/protect/mask.ts';
import type { Masked } from './compare.ts';

export const MASK_KEY = 'a key that is long enough for tests of masks';

/** HMAC-SHA-256 in PostgreSQL's own terms (RFC 2104), of the key that `MASK_KEY` gives. */
function hmacSql(text: string): string {
  const key = Buffer.concat([deriveKeys(MASK_KEY).hash, Buffer.alloc(32)]);
  const pad = (byte: number): string => `'\\x${Buffer.from(key.map((one) => one ^ byte)).toString('hex')}'::bytea`;
  return `encode(sha256(${pad(0x5c)} || sha256(${pad(0x36)} || convert_to(${text}, 'UTF8'))), 'hex')`;
}

/** What PostgreSQL says that a masked value is. */
export const HASHED: Masked = { source: hmacSql };
export const REDACTED: Masked = { source: (text) => `CASE WHEN ${text} IS NULL THEN NULL ELSE '***' END` };
export const LAST_FOUR: Masked = {
  source: (text) =>
    `CASE WHEN length(${text}) < 8 THEN '***' WHEN ${text} IS NOT NULL THEN '***' || right(${text}, 4) END`,
};
export const ENCRYPTED: Masked = {
  source: (text) => `'clear: ' || ${text}`,
  target: (text) => `clear: ${unmask(MASK_KEY, text)}`,
};

export function hashed(text: string): string {
  return createHmac('sha256', deriveKeys(MASK_KEY).hash).update(text).digest('hex');
}

export type Protect = NonNullable<ConfigInput['source']['protect']>;

export const protect = (...rules: NonNullable<Protect['rules']>): { protect: Protect } => ({
  protect: { key: MASK_KEY, rules },
});

/** Keys of one and of two columns, whole rows as key, values out of line. */
export const WORKLOAD_RULES = protect(
  { columns: ['public.account.id', 'public.account.owner', 'public.renamed_key.code'], mask: 'hash' },
  { columns: ['sales.order_line.order', 'public.renamed_key.body'], mask: 'encrypt' },
  { columns: ['public.account.note', 'public.event_log.what'], mask: 'partial' },
  { columns: ['*.account.balance', 'public.event_log.who'], mask: 'redact' },
);
export const WORKLOAD_MASKED: Record<string, Masked> = {
  'public.account.id': HASHED,
  'public.account.owner': HASHED,
  'public.renamed_key.code': HASHED,
  'sales.order_line.order': ENCRYPTED,
  'public.renamed_key.body': ENCRYPTED,
  'public.account.note': LAST_FOUR,
  'public.event_log.what': LAST_FOUR,
  'public.account.balance': REDACTED,
  'public.event_log.who': REDACTED,
};
