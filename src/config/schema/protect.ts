import { z } from 'zod';
import { about, path, secret } from './common.ts';

const columnPattern = z
  .string()
  .regex(/^[^.]+\.[^.]+\.[^.]+$/su, 'must be schema.table.column, where * and ? match within a name');

const masked = z.strictObject({
  columns: z
    .array(columnPattern)
    .min(1)
    .meta(
      about('Patterns `schema.table.column`; `*` and `?` match within a name, and `?` also stands for a dot in one.'),
    ),
  mask: z
    .enum(['hash', 'redact', 'partial', 'encrypt', 'none'])
    .meta(
      about(
        'hash: HMAC-SHA-256 as hex. encrypt: AES-SIV as base64, the same for the same value. partial: the ends stay. redact: ***. none: an exception to the rules below.',
      ),
    ),
  /** The first characters of names and numbers say more than the last. */
  keepFirst: z.number().int().min(0).max(64).default(0).meta(about('partial: characters that stay at the beginning.')),
  /** What receipts show of a card. */
  keepLast: z.number().int().min(0).max(64).default(4).meta(about('partial: characters that stay at the end.')),
});

export const protect = z.strictObject({
  /** As long as what comes out of SHA-256, so that guessing it costs no less than breaking that. */
  key: z
    .string()
    .min(32, 'needs at least 32 characters, such as those of `openssl rand -hex 32`')
    .optional()
    .meta(secret('Key for hash and encrypt, at least 32 characters; whoever has it can decrypt.')),
  keyFile: z.string().min(1).optional().meta(path('File that holds the key instead; blanks around it do not count.')),
  rules: z
    .array(masked)
    .default([])
    .meta(about('What is masked before it leaves the source; of the rules that match a column the first counts.')),
});
