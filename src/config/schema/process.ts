import { z } from 'zod';
import { about } from './common.ts';

export const endpoint = z.strictObject({
  /** Others are let in on purpose, not by default. */
  host: z.string().min(1).default('127.0.0.1').meta(about('Address to listen on; 0.0.0.0 for all.')),
  port: z
    .number()
    .int()
    .min(0)
    .max(65535)
    .default(9464)
    .meta(about('0 takes a free port. 9464 is the usual port of Prometheus exporters of this kind.')),
  enabled: z.boolean().default(true).meta(about('/metrics, /healthz and /readyz.')),
  /** Each has about a dozen time series per sink, which cost memory in Prometheus. */
  tablesMax: z
    .number()
    .int()
    .min(0)
    .max(100_000)
    .default(500)
    .meta(about('Tables with time series of their own; further ones are put together as "(others)".')),
});

export const log = z.strictObject({
  level: z
    .enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal'])
    .default('info')
    .meta(about('Least level that is logged.')),
  format: z.enum(['json', 'pretty']).optional().meta(about('Default: pretty on a terminal, json elsewhere.')),
});
