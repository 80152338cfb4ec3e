import { z } from 'zod';
import { about } from './common.ts';

export const strategy = z.enum(['real_time', 'near_real_time', 'batch', 'hybrid', 'recovery']);

const tables = z.strictObject({
  tables: z.array(z.string().min(1)).min(1).meta(about('Patterns `schema.table`; `*` and `?` match within a name.')),
  strategy: strategy.meta(about('How changes of these tables are gathered.')),
  sinks: z
    .array(z.string().min(1))
    .min(1)
    .optional()
    .meta(about('Names of the sinks for which it counts; all when left out.')),
});

export const tableStrategies = z.array(tables);
