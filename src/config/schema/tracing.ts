import { z } from 'zod';
import { about, secret } from './common.ts';

export const tracing = z.strictObject({
  endpoint: z
    .string()
    .regex(
      /^https?:\/\/[^\s@]+$/,
      'must be an http:// or https:// address without a password, such as http://localhost:4318',
    )
    .optional()
    .meta(
      about(
        'Where traces go, by OTLP over HTTP; /v1/traces is appended. Default: OTEL_EXPORTER_OTLP_ENDPOINT, else none.',
      ),
    ),
  headers: z
    .string()
    .regex(/^[^=,]+=[^,]*(,[^=,]+=[^,]*)*$/, 'must be name=value, several with "," between')
    .optional()
    .meta(secret('Sent along: name=value, several with "," between. Default: OTEL_EXPORTER_OTLP_HEADERS.')),
  /** A batch has at least four spans, and there may be hundreds of batches a second. */
  sampleRatio: z.number().min(0).max(1).default(0.1).meta(about('Share of batches that are traced, from 0 to 1.')),
});
