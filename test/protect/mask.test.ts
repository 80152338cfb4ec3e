import { aessiv } from '@noble/ciphers/aes.js';
import { describe, expect, it } from 'vitest';
import { deriveKeys, type MaskKeys } from '../../src/protect/keys.ts';
import { type MaskRule, makeMask, unmask } from '../../src/protect/mask.ts';

const KEY = 'a key that is long enough for a test';
const keys = deriveKeys(KEY);

function mask(rule: Partial<MaskRule>, text: string, with_: MaskKeys | null = keys): string {
  const made = makeMask({ columns: [], mask: 'hash', keepFirst: 0, keepLast: 4, ...rule }, with_);
  return Buffer.from(made!(Buffer.from(text))).toString('utf8');
}

describe('masks', () => {
  it('hash: HMAC-SHA-256 under a key derived by HKDF, as any other program computes it', () => {
    // Python's hmac module: prk = hmac(32 zero bytes, KEY); key = hmac(prk, b'waltide mask hash\x01'); hmac(key, text).
    expect(mask({}, 'someone@example.com')).toBe('2803f81aad74205b1b02c69634e1a5d0d383a85dd6b5834bc181cfb77af8cd5a');
    expect(mask({}, 'a')).not.toBe(mask({}, 'b'));
    expect(mask({}, 'a')).toBe(mask({}, 'a'));
    expect(mask({}, 'a', deriveKeys(`${KEY}!`))).not.toBe(mask({}, 'a'));
  });

  it('encrypt: the same for the same value, and only the key brings it back', () => {
    for (const text of ['', 'x', 'žluťoučký kůň', 'y'.repeat(5000)]) {
      expect(unmask(KEY, mask({ mask: 'encrypt' }, text))).toBe(text);
      expect(mask({ mask: 'encrypt' }, text)).toBe(mask({ mask: 'encrypt' }, text));
    }
    const secret = mask({ mask: 'encrypt' }, 'secret');
    expect(() => unmask(`${KEY}!`, secret)).toThrow(/not encrypted with this key/);
    expect(() => unmask(KEY, secret.slice(0, 12))).toThrow(/not encrypted with this key/);
  });

  it('encrypt is AES-SIV: example A.1 of RFC 5297', () => {
    const hex = (text: string): Buffer => Buffer.from(text.replaceAll(' ', ''), 'hex');
    const key = hex('fffefdfc fbfaf9f8 f7f6f5f4 f3f2f1f0 f0f1f2f3 f4f5f6f7 f8f9fafb fcfdfeff');
    const ad = hex('10111213 14151617 18191a1b 1c1d1e1f 20212223 24252627');
    const sealed = aessiv(key, ad).encrypt(hex('11223344 55667788 99aabbcc ddee'));
    expect(Buffer.from(sealed)).toEqual(hex('85632d07 c6e8f37f 950acd32 0a2ecc93 40c02b96 90c4dc04 daef7f6a fe5c'));
  });

  it('partial: the ends stay, unless they are most of the value', () => {
    expect(mask({ mask: 'partial' }, '4111111111111234')).toBe('***1234');
    expect(mask({ mask: 'partial' }, '12345678')).toBe('***5678');
    expect(mask({ mask: 'partial' }, '1234567')).toBe('***');
    expect(mask({ mask: 'partial', keepFirst: 1, keepLast: 0 }, '🐟🐠🐡')).toBe('🐟***');
    expect(mask({ mask: 'partial', keepFirst: 0, keepLast: 0 }, 'all')).toBe('***');
    expect(mask({ mask: 'partial' }, '')).toBe('***');
  });

  it('redact says nothing; none leaves the value', () => {
    expect(mask({ mask: 'redact' }, 'anything')).toBe('***');
    expect(makeMask({ columns: [], mask: 'none', keepFirst: 0, keepLast: 4 }, null)).toBeNull();
  });

  it('hash and encrypt refuse to go without a key', () => {
    expect(() => mask({}, 'a', null)).toThrow(/need a key/);
    expect(() => mask({ mask: 'encrypt' }, 'a', null)).toThrow(/need a key/);
  });
});
