import { randomBytes, timingSafeEqual } from 'node:crypto';
import type pg from 'pg';
import type { Log } from '../../log.ts';
import {
  type AccessRole,
  type ApiKey,
  type HashedKey,
  insertApiKey,
  touchApiKey,
  usableApiKeys,
} from '../../postgres/api-keys.ts';
import type { Sessions } from '../../postgres/sessions.ts';
import { cached } from '../cached.ts';
import type { Principal } from '../route.ts';
import { sha256 } from './secrets.ts';

/** `waltide_<id>_<secret>`: scanners of secrets know it by its beginning. */
const KEY = /^waltide_([0-9a-f]{12})_([0-9a-f]{64})$/;
/** How long a key that was found, or was not, is believed to be so: a revoked one works no longer than this. */
const BELIEVED_MS = 5000;
const REMEMBERED_MAX = 1000;

export function looksLikeKey(text: string): boolean {
  return text.startsWith('waltide_');
}

/** Makes a key. `text` is shown once and kept nowhere: only its hash is stored. */
export async function createApiKey(
  client: pg.Client,
  options: { name: string; role: AccessRole; createdBy: string; expiresAt: Date | null },
): Promise<{ key: ApiKey; text: string }> {
  const secret = randomBytes(32).toString('hex');
  const key = await insertApiKey(client, { ...options, hash: sha256(secret) });
  return { key, text: `waltide_${key.id}_${secret}` };
}

interface Known {
  readonly key: HashedKey | null;
  readonly untilMs: number;
}

/** Who holds which key. */
export class KeyStore {
  readonly #sessions: Sessions;
  readonly #log: Log;
  readonly #known = new Map<string, Promise<Known>>();
  readonly #all = cached(BELIEVED_MS, (sessions: Sessions) => sessions.use((client) => usableApiKeys(client, null)));

  constructor(sessions: Sessions, log: Log) {
    this.#sessions = sessions;
    this.#log = log;
  }

  /**
   * Null for a key that is unknown, wrong, revoked or has expired. Rejects where PostgreSQL cannot be asked. `guessed`: it probably is
   * wrong, and PostgreSQL is not asked for the like of it one by one; a key that has just been made may then be taken for unknown.
   */
  async principalOf(text: string, guessed: boolean): Promise<Principal | null> {
    const [, id, secret] = KEY.exec(text) ?? [];
    if (id === undefined || secret === undefined) return null;
    const key = guessed ? (await this.#all(this.#sessions)).find((one) => one.id === id) : (await this.#find(id)).key;
    if (!key || !timingSafeEqual(sha256(secret), key.hash)) return null;
    if (key.expiresAt && key.expiresAt.getTime() <= Date.now()) return null;
    return { name: `key:${key.name}`, role: key.role };
  }

  async #find(id: string): Promise<Known> {
    const known = await this.#known.get(id);
    if (known && known.untilMs > Date.now()) return known;
    const asked = this.#ask(id);
    this.#known.delete(id);
    this.#known.set(id, asked);
    // Asked about too many: the oldest are forgotten.
    for (const first of this.#known.keys()) if (this.#known.size > REMEMBERED_MAX) this.#known.delete(first);
    try {
      return await asked;
    } catch (error) {
      this.#known.delete(id);
      throw error;
    }
  }

  async #ask(id: string): Promise<Known> {
    const [key = null] = await this.#sessions.use((client) => usableApiKeys(client, id));
    if (key)
      this.#sessions
        .use((client) => touchApiKey(client, id))
        .catch((error: unknown) => this.#log.debug({ err: error }, 'the use of an API key was not noted'));
    return { key, untilMs: Date.now() + BELIEVED_MS };
  }
}
