import { z } from 'zod';
import { about, path } from './common.ts';

const columnName = z.string().min(1);

const transform = z.strictObject({
  tables: z.array(z.string().min(1)).min(1).meta(about('Patterns `schema.table`; `*` and `?` match within a name.')),
  filter: z
    .string()
    .min(1)
    .optional()
    .meta(
      about(
        "Rows to let through, as in SQL: status <> 'draft' and amount >= 10. A row that an update takes out is deleted.",
      ),
    ),
  module: z
    .string()
    .min(1)
    .optional()
    .meta(path('JavaScript module whose default export is a function from a row to a row, or null to leave it out.')),
  drop: z.array(columnName).default([]).meta(about('Columns to leave out.')),
  rename: z.record(columnName, columnName).default({}).meta(about('New names of columns, by the old ones.')),
  cast: z
    .record(columnName, z.enum(['text', 'int4', 'int8', 'numeric', 'float8']))
    .default({})
    .meta(about('Other types of columns: text for any, the others for numbers that fit in whatever they are.')),
});

export const transforms = z
  .array(transform)
  .default([])
  .meta(about('What becomes of rows and columns before they leave the source, by their names there.'));
