import type { Document } from './document.ts';
import { type Fault, faultAt } from './faults.ts';
import { originOf } from './issues.ts';

const LOOPBACK = /^(localhost|127(\.\d{1,3}){3}|::1|\[::1\])$/;

/** True where only programs of this machine can reach `host`. */
export function isLoopback(host: string): boolean {
  return LOOPBACK.test(host);
}

/** What `api` says that does not fit together: each would let in more than was meant. */
export function apiFaults(document: Document): Fault[] {
  const { api } = (document.value ?? {}) as { api?: Record<string, unknown> };
  if (typeof api !== 'object' || api === null) return [];
  const faults: Fault[] = [];
  const fault = (at: string[], message: string): void => {
    const path = ['api', ...at];
    faults.push(faultAt(originOf(document, path), path, message));
  };
  const { auth = 'keys', host = '127.0.0.1', jwt, cors } = api;
  if (auth === 'none' && typeof host === 'string' && !isLoopback(host))
    fault(['auth'], `none is for loopback only, and host is ${host}; create a key with \`waltide api-key create\``);
  for (const origin of Array.isArray(cors) ? cors : [])
    if (typeof origin === 'string' && URL.canParse(origin) && new URL(origin).origin !== origin)
      fault(['cors'], `${origin} is no origin; write ${new URL(origin).origin}`);
  const tokens = auth === 'jwt' || auth === 'keys-or-jwt';
  if (tokens && (typeof jwt !== 'object' || jwt === null)) fault(['jwt'], `is needed with auth: ${auth}`);
  if (typeof jwt === 'object' && jwt !== null) jwtFaults(jwt as Record<string, unknown>, fault);
  return faults;
}

function jwtFaults(jwt: Record<string, unknown>, fault: (at: string[], message: string) => void): void {
  const ways = ['secret', 'secretFile', 'publicKeyFile', 'jwksUrl'].filter((key) => jwt[key] !== undefined);
  if (ways.length !== 1)
    fault(
      ['jwt'],
      `needs exactly one of secret, secretFile, publicKeyFile and jwksUrl, has ${ways.join(', ') || 'none'}`,
    );
  if (typeof jwt.jwksUrl !== 'string' || !URL.canParse(jwt.jwksUrl)) return;
  const { protocol, hostname } = new URL(jwt.jwksUrl);
  if (protocol !== 'https:' && !isLoopback(hostname))
    fault(['jwt', 'jwksUrl'], 'must be https: whoever can change it on its way could sign tokens');
  // An identity provider signs tokens for many: those for others are not for us.
  for (const key of ['issuer', 'audience']) if (jwt[key] === undefined) fault(['jwt', key], 'is needed with jwksUrl');
}
