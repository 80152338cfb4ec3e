import { hkdfSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { SourceConfig } from '../config/schema.ts';
import { messageOf, WaltideError } from '../errors.ts';

const KEY_CHARACTERS_MIN = 32;

/** One key for each use, so that what one discloses says nothing about another. */
export interface MaskKeys {
  readonly hash: Buffer;
  /** 512 bits: AES-256 twice, as RFC 5297 has it. */
  readonly encrypt: Buffer;
  /** Tells keys apart and discloses nothing of them: it may be recorded. */
  readonly check: string;
}

/** HKDF-SHA-256 of the key's text (UTF-8) without salt; the info is the use. */
export function deriveKeys(key: string): MaskKeys {
  const derive = (use: string, bytes: number): Buffer =>
    Buffer.from(hkdfSync('sha256', key, '', `waltide mask ${use}`, bytes));
  return { hash: derive('hash', 32), encrypt: derive('encrypt', 64), check: derive('check', 8).toString('hex') };
}

/** Null where no key is configured. Throws PROTECTION where its file cannot be read or holds too little. */
export function loadKeys({ key, keyFile }: NonNullable<SourceConfig['protect']>): MaskKeys | null {
  if (keyFile === undefined) return key === undefined ? null : deriveKeys(key);
  let text: string;
  try {
    text = readFileSync(keyFile, 'utf8').trim();
  } catch (error) {
    throw new WaltideError(
      'PROTECTION',
      `source.protect.keyFile ${keyFile} cannot be read: ${messageOf(error)}`,
      'Correct the path or the rights of the file.',
      { cause: error },
    );
  }
  if (text.length < KEY_CHARACTERS_MIN)
    throw new WaltideError(
      'PROTECTION',
      `source.protect.keyFile ${keyFile} holds ${text.length} characters, and a key has at least ${KEY_CHARACTERS_MIN}`,
      'Write a new one with `openssl rand -hex 32`.',
    );
  return deriveKeys(text);
}
