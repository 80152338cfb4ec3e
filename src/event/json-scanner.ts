import { WaltideError } from '../errors.ts';

const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/**
 * Walks over JSON bytes (RFC 8259) without building values: numbers stay digits, strings stay bytes. It checks what
 * it reads and only balances what it skips. Throws PROTOCOL, with the byte's place, where the bytes are not as asked.
 */
export class JsonScanner {
  bytes: Buffer;
  at = 0;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }

  /** The error of these bytes, for the caller to throw. */
  fault(expected: string): WaltideError {
    return new WaltideError(
      'PROTOCOL',
      `A record's value is not a change event of this codec: expected ${expected} at byte ${this.at}`,
      'Check that nothing but Waltide writes to its topics.',
    );
  }

  fail(expected: string): never {
    throw this.fault(expected);
  }

  /** Skips white space and returns the byte there, without taking it; NaN at the end. */
  peek(): number {
    const { bytes } = this;
    let { at } = this;
    while (at < bytes.length) {
      const byte = bytes[at]!;
      if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) {
        this.at = at;
        return byte;
      }
      at++;
    }
    this.at = at;
    return Number.NaN;
  }

  /** Takes the byte, after white space. */
  expect(byte: number): void {
    if (this.peek() !== byte) this.fail(`"${String.fromCharCode(byte)}"`);
    this.at++;
  }

  /** After a member or element: true where another follows, false where `close` ended it. */
  more(close: number): boolean {
    const byte = this.peek();
    if (byte !== close && byte !== 0x2c) this.fail(`"," or "${String.fromCharCode(close)}"`);
    this.at++;
    return byte === 0x2c;
  }

  /** Takes the opening byte; false where the object or array is empty, which takes the closing byte as well. */
  enter(open: number, close: number): boolean {
    this.expect(open);
    if (this.peek() !== close) return true;
    this.at++;
    return false;
  }

  /** Takes these bytes if they are next (no white space is skipped). */
  take(expected: Uint8Array): boolean {
    const { bytes, at } = this;
    const { length } = expected;
    if (at + length > bytes.length) return false;
    for (let i = 0; i < length; i++) if (bytes[at + i] !== expected[i]) return false;
    this.at = at + length;
    return true;
  }

  /** Takes a string that begins here and returns true where it holds escapes. `at` is then past its closing quote. */
  string(): boolean {
    const { bytes } = this;
    if (bytes[this.at] !== QUOTE) this.fail('a string');
    const end = bytes.length;
    let escaped = false;
    for (let at = this.at + 1; at < end; at++) {
      const byte = bytes[at]!;
      if (byte === QUOTE) {
        this.at = at + 1;
        return escaped;
      }
      if (byte === BACKSLASH) {
        escaped = true;
        at++;
      }
    }
    return this.fail('the end of the string that begins');
  }

  /** Takes a number; its digits are [start, at). */
  number(): number {
    const { bytes } = this;
    const start = this.at;
    const end = bytes.length;
    let { at } = this;
    while (at < end) {
      const byte = bytes[at]!;
      const digit = byte - 0x30;
      if (digit >>> 0 > 9 && byte !== 0x2d && byte !== 0x2b && byte !== 0x2e && (byte | 0x20) !== 0x65) break;
      at++;
    }
    if (at === start) this.fail('a number');
    this.at = at;
    return start;
  }

  /** Takes a whole number. Throws on fractions and exponents. */
  integer(): bigint {
    this.peek();
    const { bytes } = this;
    const start = this.number();
    const first = bytes[start] === 0x2d ? start + 1 : start;
    // Up to 15 digits fit a double and need no string, which is most of the cost.
    let small = 0;
    for (let i = first; i < this.at; i++) {
      const digit = bytes[i]! - 0x30;
      if (digit >>> 0 > 9) this.fail('a whole number before');
      small = small * 10 + digit;
    }
    if (first === this.at) this.fail('a whole number before');
    if (this.at - first > 15) return BigInt(bytes.toString('latin1', start, this.at));
    return BigInt(first === start ? small : -small);
  }

  /** Takes any value. */
  skip(): void {
    let depth = 0;
    do {
      const byte = this.peek();
      if (byte === QUOTE) this.string();
      else if (byte === 0x7b || byte === 0x5b) {
        depth++;
        this.at++;
      } else if (byte === 0x7d || byte === 0x5d) {
        depth--;
        this.at++;
      } else if (depth > 0 && (byte === 0x2c || byte === 0x3a)) this.at++;
      else if (byte >= 0x61 && byte <= 0x7a) this.#word();
      else this.number();
    } while (depth > 0);
    if (depth < 0) this.fail('a value before');
  }

  /** Takes a string and returns its text. */
  text(): string {
    this.peek();
    const start = this.at;
    const escaped = this.string();
    if (!escaped) return this.bytes.toString('utf8', start + 1, this.at - 1);
    try {
      return JSON.parse(this.bytes.toString('utf8', start, this.at)) as string;
    } catch {
      return this.fail('only known escapes in the string before');
    }
  }

  /** Takes true, false or null, or what was meant to be one. */
  #word(): void {
    const { bytes } = this;
    while (this.at < bytes.length && bytes[this.at]! >= 0x61 && bytes[this.at]! <= 0x7a) this.at++;
  }
}
