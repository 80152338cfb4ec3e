import { MASK, maskedUrl } from '../masked-url.ts';
import type { Config } from './schema.ts';
import { configShape, type Shape } from './shape.ts';

/** A copy that may be printed: passwords in URLs (also as query parameters) and secret keys become `***`. */
export function maskedConfig(config: Config): Config {
  return mask(config, configShape) as Config;
}

function mask(value: unknown, shape: Shape | null | undefined): unknown {
  if (typeof value === 'string')
    return shape?.mark === 'secret' ? MASK : value.includes('://') ? maskedUrl(value) : value;
  if (Array.isArray(value)) return value.map((item) => mask(item, shape?.items));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, child]) => [key, mask(child, shape?.keys.get(key))]));
}
