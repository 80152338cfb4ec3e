import { readFileSync } from 'node:fs';
import { urlFault } from '../../config/alert-checks.ts';
import type { WebhookConfig } from '../../config/schema.ts';
import { messageOf, WaltideError } from '../../errors.ts';
import { VERSION } from '../../version.ts';
import { type Notification, signedHeaders, slackMessage } from './notification.ts';

/** A webhook with its secrets, which stay in here: no message of an error holds any. */
export interface Webhook {
  readonly name: string;
  readonly timeoutMs: number;
  /** One attempt; `id` is the same for all of a notification. Resolves once it was taken; rejects with SendError. */
  send(id: string, notification: Notification): Promise<void>;
}

/** Why it was not taken. */
export class SendError extends Error {
  /** How long the receiver asks to wait, in milliseconds; null where it does not say. */
  readonly retryAfterMs: number | null;

  constructor(message: string, retryAfterMs: number | null = null) {
    super(message);
    this.retryAfterMs = retryAfterMs;
  }
}

const SECRET_CHARACTERS_MIN = 24;

/** Rejects with CONFIG_INVALID where a file cannot be read, or does not hold what it should. */
export function openWebhook(config: WebhookConfig): Webhook {
  const { name, format, timeoutMs } = config;
  const url = config.url ?? urlOf(config);
  const secret = secretOf(config);
  return {
    ...{ name, timeoutMs },
    send: async (id, notification) => {
      const body = JSON.stringify(format === 'slack' ? slackMessage(notification) : notification);
      const headers = signedHeaders(id, body, secret, Date.now());
      await post(url, body, headers, timeoutMs);
    },
  };
}

async function post(url: string, body: string, headers: Record<string, string>, timeoutMs: number): Promise<void> {
  let response: Response;
  try {
    response = await fetch(url, {
      method: 'POST',
      body,
      headers: { 'content-type': 'application/json', 'user-agent': `waltide/${VERSION}`, ...headers },
      // What is meant for one receiver is not handed to another.
      redirect: 'manual',
      signal: AbortSignal.timeout(timeoutMs),
    });
  } catch (error) {
    throw new SendError(reasonOf(error, timeoutMs));
  }
  // Nothing of it is of use, and it may be endless.
  await response.body?.cancel().catch(() => {});
  const { status } = response;
  if (status >= 200 && status < 300) return;
  if (status >= 300 && status < 400)
    throw new SendError(`answered ${status}, a redirection, which is not followed: configure the address it leads to`);
  throw new SendError(`answered ${status}`, retryAfter(response.headers.get('retry-after')));
}

/** fetch's own message holds the URL in some cases; that of its cause is the system's. */
function reasonOf(error: unknown, timeoutMs: number): string {
  const { name, cause } = error as { name?: string; cause?: unknown };
  if (name === 'TimeoutError' || name === 'AbortError') return `no answer within ${timeoutMs} ms`;
  return cause instanceof Error ? messageOf(cause) : 'it cannot be posted to';
}

/** Seconds, or a date. */
function retryAfter(header: string | null): number | null {
  if (header === null) return null;
  const ms = /^\d{1,6}$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isFinite(ms) && ms > 0 ? ms : null;
}

function urlOf({ name, urlFile }: WebhookConfig): string {
  const url = readSecret(name, 'urlFile', urlFile!);
  const fault = urlFault(url);
  if (fault) throw unusable(name, 'urlFile', `what it holds ${fault}`);
  return url;
}

function secretOf({ name, secret, secretFile }: WebhookConfig): Buffer | null {
  const text = secret ?? (secretFile === undefined ? null : readSecret(name, 'secretFile', secretFile));
  if (text === null) return null;
  if (text.length < SECRET_CHARACTERS_MIN)
    throw unusable(
      name,
      'secretFile',
      `holds ${text.length} characters, and a secret has at least ${SECRET_CHARACTERS_MIN}`,
    );
  return text.startsWith('whsec_') ? Buffer.from(text.slice('whsec_'.length), 'base64') : Buffer.from(text);
}

function readSecret(webhook: string, key: string, file: string): string {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch (error) {
    throw unusable(webhook, key, `${file} cannot be read: ${messageOf(error)}`, error);
  }
}

function unusable(webhook: string, key: string, message: string, cause?: unknown): WaltideError {
  return new WaltideError(
    'CONFIG_INVALID',
    `alerts.webhooks, "${webhook}", ${key}: ${message}`,
    'Correct the path, the rights or the content of the file.',
    { cause },
  );
}
