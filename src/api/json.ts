/** JSON in which nothing is lost or throws: bigint as a number where a double holds it, else as text; bytes as `\x…`. */
export function toJson(value: unknown, indent?: number): string {
  return JSON.stringify(value, jsonValue, indent);
}

function jsonValue(_key: string, value: unknown): unknown {
  if (typeof value === 'bigint') return isSafe(value) ? Number(value) : value.toString();
  if (typeof value === 'number' && !Number.isFinite(value)) return String(value);
  if (value instanceof Uint8Array) return `\\x${Buffer.from(value).toString('hex')}`;
  // Buffer.toJSON has run before the replacer sees it.
  if (isBufferJson(value)) return `\\x${Buffer.from(value.data).toString('hex')}`;
  if (value instanceof Map) return Object.fromEntries(value);
  return value;
}

function isSafe(value: bigint): boolean {
  return value >= BigInt(Number.MIN_SAFE_INTEGER) && value <= BigInt(Number.MAX_SAFE_INTEGER);
}

function isBufferJson(value: unknown): value is { data: number[] } {
  return (
    typeof value === 'object' &&
    value !== null &&
    (value as { type?: unknown }).type === 'Buffer' &&
    Array.isArray((value as { data?: unknown }).data)
  );
}
