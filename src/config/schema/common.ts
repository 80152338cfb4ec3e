import { z } from 'zod';

/* What the parts of the schema are put together from. Contract of the marks: see ../schema.ts. */

export const about = (description: string) => ({ description });
export const path = (description: string) => ({ description, kind: 'path' });
export const secret = (description: string) => ({ description, kind: 'secret' });

export const name = z
  .string()
  .regex(
    /^[A-Za-z0-9_][A-Za-z0-9_.-]*$/,
    'may hold letters, digits, ".", "_" and "-" only, beginning with a letter, a digit or "_"',
  );
export const slotName = z
  .string()
  .regex(/^[a-z0-9_]{1,63}$/, 'must be 1 to 63 of a-z, 0-9 and "_" (PostgreSQL allows no others in a slot name)');
export const bytes = z.number().int().positive();
export const ms = z.number().int().positive();
