import type { FastifyRequest } from 'fastify';
import type { ApiConfig } from '../../config/schema.ts';
import { WaltideError } from '../../errors.ts';
import type { Log } from '../../log.ts';
import type { Sessions } from '../../postgres/sessions.ts';
import type { Principal } from '../route.ts';
import { KeyStore, looksLikeKey } from './api-keys.ts';
import { TokenVerifier } from './tokens.ts';

/** Tells who asks. Rejects with UNAUTHENTICATED or FORBIDDEN. `guessed`: many have failed at that address, so this is to cost little. */
export type Authenticate = (request: FastifyRequest, guessed?: boolean) => Promise<Principal> | Principal;

/** Longer than any token that an identity provider makes. */
const CREDENTIAL_LENGTH_MAX = 16_384;

/**
 * Who may in, by configuration. Rejects with CONFIG_INVALID where a secret or key cannot be read.
 * What it resolves with rejects with UNAUTHENTICATED, without saying what is wrong: that would help to guess.
 */
export async function authenticator(config: ApiConfig, sessions: Sessions, log: Log): Promise<Authenticate> {
  if (config.auth === 'none') return ({ headers, socket }) => localAdmin(headers, socket.localPort, 'local:anyone');
  const keys = config.auth === 'jwt' ? null : new KeyStore(sessions, log);
  const tokens = config.auth === 'keys' ? null : await TokenVerifier.open(config.jwt!);
  return async (request, guessed = false) => {
    const credential = credentialOf(request);
    const principal = looksLikeKey(credential)
      ? await keys?.principalOf(credential, guessed)
      : await tokens?.principalOf(credential);
    if (principal) return principal;
    throw unauthenticated();
  };
}

/** `Authorization: Bearer …`, or `X-API-Key: …`; never of the URL, which is logged everywhere. */
function credentialOf({ headers }: FastifyRequest): string {
  const bearer = /^Bearer +([\x21-\x7e]+) *$/i.exec(headers.authorization ?? '')?.[1];
  const key = headers['x-api-key'];
  const credential = bearer ?? (typeof key === 'string' ? key : '');
  if (credential === '' || credential.length > CREDENTIAL_LENGTH_MAX) throw unauthenticated();
  return credential;
}

function unauthenticated(): WaltideError {
  return new WaltideError(
    'UNAUTHENTICATED',
    'no valid key or token was given',
    'Send Authorization: Bearer <key or token>; `waltide api-key create` makes a key.',
  );
}

/**
 * The admin that everyone on this machine is, where nothing is asked for. Pages in a browser are on this machine too,
 * by a name of their own (DNS rebinding) or across origins: they are refused with FORBIDDEN.
 */
export function localAdmin(headers: FastifyRequest['headers'], port: number | undefined, name: string): Principal {
  const hosts = ['127.0.0.1', 'localhost', '[::1]'].map((host) => `${host}:${port}`);
  if (hosts.includes(headers.host ?? '') && headers.origin === undefined) return { name, role: 'admin' };
  throw new WaltideError(
    'FORBIDDEN',
    'this address answers only local programs, under 127.0.0.1',
    'Ask it under 127.0.0.1, from a program on this machine; others are let in by api.auth: keys or jwt.',
  );
}
