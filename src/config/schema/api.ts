import { z } from 'zod';
import { about, ms, path, secret } from './common.ts';

const url = z.string().regex(/^https?:\/\/[^\s/]+/, 'must begin with https:// or http://');

const jwt = z.strictObject({
  /** As many bytes as HMAC-SHA-256 gives; less could be guessed. */
  secret: z.string().min(32).optional().meta(secret('Shared secret of HS256 tokens, at least 32 characters.')),
  secretFile: z.string().min(1).optional().meta(path('The same, in a file: of a Docker or Kubernetes secret, say.')),
  publicKeyFile: z.string().min(1).optional().meta(path('Public key of RS256 tokens, PEM.')),
  jwksUrl: url.optional().meta(about('Where the identity provider publishes the public keys of RS256 tokens.')),
  issuer: z.string().min(1).optional().meta(about('What `iss` must be; needed with jwksUrl.')),
  audience: z.string().min(1).optional().meta(about('What `aud` must hold; needed with jwksUrl.')),
  roleClaim: z
    .string()
    .min(1)
    .default('role')
    .meta(about('The claim that holds viewer, operator or admin, or a list of roles; dots lead into objects.')),
  /** Clocks of servers differ by seconds. */
  clockToleranceSeconds: z.number().int().min(0).max(300).default(30).meta(about('How far clocks may differ.')),
});

const rateLimit = z.strictObject({
  /** More than any dashboard asks, and far less than would hold up the pipeline beside it. */
  requestsMax: z.number().int().min(1).default(500).meta(about('Most requests of one key or token per window.')),
  windowMs: ms.default(1000).meta(about('The window of requestsMax.')),
  /** A key cannot be guessed; this bounds what asking for wrong ones costs. */
  failuresMax: z
    .number()
    .int()
    .min(1)
    .default(20)
    .meta(about('Most failed logins of one address per minute. Valid keys get in all the same.')),
});

export const api = z.strictObject({
  /** It lets others in, so it is opened on purpose. The command line has an address of its own. */
  enabled: z.boolean().default(false).meta(about('Serve the REST API.')),
  host: z.string().min(1).default('127.0.0.1').meta(about('Address to listen on; 0.0.0.0 for all.')),
  port: z.number().int().min(0).max(65535).default(8410).meta(about('0 takes a free port.')),
  auth: z
    .enum(['keys', 'jwt', 'keys-or-jwt', 'none'])
    .default('keys')
    .meta(about('Who is let in: API keys (`waltide api-key`), tokens (api.jwt), both; none only on loopback.')),
  jwt: jwt.optional().meta(about('Whose tokens are believed.')),
  rateLimit: rateLimit.prefault({}).meta(about('How much one caller may ask.')),
  /** A dashboard has one, in each of its windows. */
  streamsMax: z
    .number()
    .int()
    .min(1)
    .max(100)
    .default(20)
    .meta(about('Most `events/stream` of one key or token at once.')),
  cors: z
    .array(url)
    .default([])
    .meta(about('Origins whose pages may use the API in a browser, such as https://ops.example.com.')),
  trustedProxies: z
    .array(z.string().min(1))
    .default([])
    .meta(about('Addresses or networks of proxies whose X-Forwarded-For is believed.')),
  /** A write of a row, a query: a megabyte is long for any. */
  bodyBytesMax: z
    .number()
    .int()
    .min(1024)
    .max(64 * 1024 * 1024)
    .default(1024 * 1024)
    .meta(about('Longest body that is read.')),
  /** Whoever has a key may then fill that disk, and no other path. */
  exportDir: z
    .string()
    .min(1)
    .optional()
    .meta(
      path('Where API callers may have exports written, each sink in a directory of its own; nowhere when left out.'),
    ),
  backupDir: z.string().min(1).optional().meta(path('The same for backups.')),
  tls: z
    .strictObject({
      certFile: z.string().min(1).meta(path('Certificate chain, PEM.')),
      keyFile: z.string().min(1).meta(path('Private key, PEM.')),
    })
    .optional()
    .meta(about('Serve HTTPS.')),
  auditRetentionDays: z.number().int().min(1).default(365).meta(about('How long the audit log is kept.')),
});
