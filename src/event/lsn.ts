/**
 * A WAL location: an unsigned 64-bit byte address (PostgreSQL manual, "pg_lsn Type").
 * Kept as a bigint everywhere, since addresses pass 2^53 on long-lived clusters.
 */
export type Lsn = bigint;

/** Beyond all that there can be. */
export const LSN_MAX: Lsn = 2n ** 64n - 1n;

const PATTERN = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/;

/** Reads PostgreSQL's `XXXXXXXX/XXXXXXXX` form. Throws a RangeError on anything else. */
export function parseLsn(text: string): Lsn {
  const match = PATTERN.exec(text);
  if (!match) throw new RangeError(`"${text}" is not an LSN (expected two hex numbers, such as 16/B374D848)`);
  return (BigInt(`0x${match[1]}`) << 32n) | BigInt(`0x${match[2]}`);
}

/** Writes an LSN in the form that PostgreSQL itself prints. */
export function formatLsn(lsn: Lsn): string {
  return `${(lsn >> 32n).toString(16).toUpperCase()}/${(lsn & 0xffffffffn).toString(16).toUpperCase()}`;
}
