import { createHmac, createSecretKey } from 'node:crypto';
import { aessiv } from '@noble/ciphers/aes.js';
import type { SourceConfig } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import { deriveKeys, type MaskKeys } from './keys.ts';

export type MaskRule = NonNullable<SourceConfig['protect']>['rules'][number];

/** What takes the place of a value: from the bytes of PostgreSQL's text to those of another text. NULL stays NULL. */
export type Mask = (text: Uint8Array) => Uint8Array;

const HIDDEN = '***';

/** Masks under which different values stay different, so that a key may have them. */
export const INJECTIVE: ReadonlySet<MaskRule['mask']> = new Set(['hash', 'encrypt']);

/** Null for `none`. Throws PROTECTION where the mask needs a key and there is none. */
export function makeMask({ mask, keepFirst, keepLast }: MaskRule, keys: MaskKeys | null): Mask | null {
  switch (mask) {
    case 'none':
      return null;
    case 'redact': {
      const hidden = Buffer.from(HIDDEN);
      return () => hidden;
    }
    case 'partial':
      return partial(keepFirst, keepLast);
    case 'hash': {
      const key = createSecretKey(needed(keys).hash);
      return (text) => Buffer.from(createHmac('sha256', key).update(text).digest('hex'), 'latin1');
    }
    case 'encrypt': {
      const key = needed(keys).encrypt;
      return (text) => Buffer.from(Buffer.from(aessiv(key).encrypt(text)).toString('base64'), 'latin1');
    }
  }
}

/** Characters are code points, as PostgreSQL counts them. Of a value that would show more than half of itself, none stays. */
function partial(first: number, last: number): Mask {
  return (text) => {
    const characters = [...Buffer.from(text.buffer, text.byteOffset, text.length).toString('utf8')];
    if (characters.length < 2 * (first + last)) return Buffer.from(HIDDEN);
    const end = characters.slice(characters.length - last);
    return Buffer.from(`${characters.slice(0, first).join('')}${HIDDEN}${end.join('')}`);
  };
}

/** The value of a column masked by `encrypt`, from the key that is configured. Throws PROTECTION where it is none of that key's. */
export function unmask(key: string, text: string): string {
  try {
    return Buffer.from(aessiv(deriveKeys(key).encrypt).decrypt(Buffer.from(text, 'base64'))).toString('utf8');
  } catch (error) {
    throw new WaltideError(
      'PROTECTION',
      'the text was not encrypted with this key, or is not whole',
      'Give the whole text of a column masked by encrypt, and the key of that time.',
      { cause: error },
    );
  }
}

function needed(keys: MaskKeys | null): MaskKeys {
  if (keys) return keys;
  throw new WaltideError(
    'PROTECTION',
    'source.protect: hash and encrypt need a key',
    'Set source.protect.keyFile, or WALTIDE_SOURCE_PROTECT_KEY in the environment.',
  );
}
