import type { Config } from './schema.ts';
import { configShape, type Shape } from './shape.ts';

const MASK = '***';
const SECRET_PARAMETER = /pass|secret|token/i;

/** A copy that may be printed: passwords in URLs (also as query parameters) and secret keys become `***`. */
export function maskedConfig(config: Config): Config {
  return mask(config, configShape) as Config;
}

/** A URL that may be printed or logged. Also for text that only looks like a URL. */
export function maskedUrl(url: string): string {
  return url
    .replace(/^([a-z][a-z0-9+.-]*:\/\/[^:/?#@]*):.*@/i, `$1:${MASK}@`)
    .replace(/([?&])([^=&#]+)=([^&#]*)/g, (whole, start: string, key: string) =>
      SECRET_PARAMETER.test(key) ? `${start}${key}=${MASK}` : whole,
    );
}

function mask(value: unknown, shape: Shape | null | undefined): unknown {
  if (typeof value === 'string')
    return shape?.mark === 'secret' ? MASK : value.includes('://') ? maskedUrl(value) : value;
  if (Array.isArray(value)) return value.map((item) => mask(item, shape?.items));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, child]) => [key, mask(child, shape?.keys.get(key))]));
}
