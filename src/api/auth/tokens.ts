import { readFileSync } from 'node:fs';
import { createRemoteJWKSet, errors, importSPKI, type JWTPayload, type JWTVerifyGetKey, jwtVerify } from 'jose';
import type { ApiConfig } from '../../config/schema.ts';
import { messageOf, WaltideError } from '../../errors.ts';
import { ACCESS_ROLES, type AccessRole } from '../../postgres/api-keys.ts';
import type { Principal } from '../route.ts';

type JwtConfig = NonNullable<ApiConfig['jwt']>;

const JWKS_TIMEOUT_MS = 5000;
const SECRET_LENGTH_MIN = 32;
/** It goes into the audit log with every call. */
const SUBJECT_LENGTH_MAX = 200;

/** Tokens of one issuer. The algorithm is what the configuration implies, never what a token says. */
export class TokenVerifier {
  readonly #config: JwtConfig;
  readonly #algorithm: 'HS256' | 'RS256';
  readonly #key: JWTVerifyGetKey;

  private constructor(config: JwtConfig, algorithm: 'HS256' | 'RS256', key: JWTVerifyGetKey) {
    this.#config = config;
    this.#algorithm = algorithm;
    this.#key = key;
  }

  /** Reads secret or key. Rejects with CONFIG_INVALID where it cannot be used. Keys of a JWKS are fetched with the first token. */
  static async open(config: JwtConfig): Promise<TokenVerifier> {
    const { secret, secretFile, publicKeyFile, jwksUrl } = config;
    if (jwksUrl !== undefined) {
      const keys = createRemoteJWKSet(new URL(jwksUrl), { timeoutDuration: JWKS_TIMEOUT_MS });
      return new TokenVerifier(config, 'RS256', keys);
    }
    if (publicKeyFile !== undefined) {
      const key = await importSPKI(readText(publicKeyFile, 'publicKeyFile'), 'RS256').catch((cause: unknown) => {
        throw unusable('publicKeyFile', messageOf(cause), 'Give a public key in PEM (BEGIN PUBLIC KEY).', cause);
      });
      return new TokenVerifier(config, 'RS256', () => key);
    }
    const text = secret ?? readText(secretFile!, 'secretFile').trimEnd();
    if (text.length < SECRET_LENGTH_MIN)
      throw unusable('secretFile', `holds fewer than ${SECRET_LENGTH_MIN} characters`, 'Use a longer secret.');
    const key = new TextEncoder().encode(text);
    return new TokenVerifier(config, 'HS256', () => key);
  }

  /**
   * Null for a token that is not to be believed. Rejects with FORBIDDEN where it holds no role, with NOT_RUNNING where
   * the JWKS cannot be had.
   */
  async principalOf(token: string): Promise<Principal | null> {
    const { issuer, audience, clockToleranceSeconds: clockTolerance } = this.#config;
    try {
      const { payload } = await jwtVerify(token, this.#key, {
        algorithms: [this.#algorithm],
        clockTolerance,
        // A token that never ends cannot be taken back.
        requiredClaims: ['exp', 'sub'],
        ...(issuer !== undefined && { issuer }),
        ...(audience !== undefined && { audience }),
      });
      if (!isName(payload.sub)) return null;
      const role = this.#roleOf(payload);
      if (role) return { name: `jwt:${payload.sub}`, role };
    } catch (error) {
      if (error instanceof errors.JOSEError && !isUnavailable(error)) return null;
      throw new WaltideError(
        'NOT_RUNNING',
        'the keys of the identity provider cannot be had',
        'Try again in a moment; see api.jwt.jwksUrl.',
        { cause: error },
      );
    }
    throw new WaltideError(
      'FORBIDDEN',
      `claim "${this.#config.roleClaim}" of the token holds none of ${ACCESS_ROLES.join(', ')}`,
      'Let the identity provider put a role into it, or name another claim by api.jwt.roleClaim.',
    );
  }

  /** The highest that the claim holds. */
  #roleOf(payload: JWTPayload): AccessRole | null {
    const claim = this.#config.roleClaim
      .split('.')
      .reduce<unknown>(
        (value, key) =>
          typeof value === 'object' && value !== null && Object.hasOwn(value, key)
            ? (value as Record<string, unknown>)[key]
            : undefined,
        payload,
      );
    const held: unknown[] = Array.isArray(claim) ? claim : [claim];
    return ACCESS_ROLES.findLast((role) => held.includes(role)) ?? null;
  }
}

/** jose asks only that the claim is there. PostgreSQL's text has no U+0000. */
function isName(subject: unknown): subject is string {
  return (
    typeof subject === 'string' &&
    subject.trim() !== '' &&
    subject.length <= SUBJECT_LENGTH_MAX &&
    !subject.includes('\0')
  );
}

/** The provider, not the token, is at fault. */
function isUnavailable(error: errors.JOSEError): boolean {
  return (
    error instanceof errors.JWKSTimeout || error instanceof errors.JWKSInvalid || error.code === 'ERR_JOSE_GENERIC'
  );
}

function readText(path: string, key: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw unusable(key, messageOf(cause), 'Check the path, and that this user may read it.', cause);
  }
}

function unusable(key: string, message: string, help: string, cause?: unknown): WaltideError {
  return new WaltideError('CONFIG_INVALID', `api.jwt.${key}: ${message}`, help, { cause });
}
