/*
 * JSON.parse makes a double of every number, and says nothing where that is another one. These look at the text before it
 * is parsed. Both take valid JSON.
 */

const NUMBER = /-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const PARTS = /^(-?)(\d+)(?:\.(\d+))?(?:e([+-]?\d+))?$/i;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/** The first number, as it stands there, that JSON.parse and JSON.stringify would change; null where there is none. */
export function inexactNumber(json: string): string | null {
  for (const { text } of inexactNumbers(json)) return text;
  return null;
}

/** The same JSON, with numbers that JSON.parse would change as strings of their digits. */
export function quoteInexact(json: string): string {
  let quoted = '';
  let from = 0;
  for (const { text, at } of inexactNumbers(json)) {
    quoted += `${json.slice(from, at)}"${text}"`;
    from = at + text.length;
  }
  return quoted + json.slice(from);
}

function* inexactNumbers(json: string): Generator<{ readonly text: string; readonly at: number }> {
  for (let at = 0; at < json.length; at++) {
    const code = json.charCodeAt(at);
    if (code === QUOTE) at = endOfString(json, at);
    else if (code === 0x2d || (code >= 0x30 && code <= 0x39)) {
      NUMBER.lastIndex = at;
      const text = NUMBER.exec(json)![0];
      if (!isExact(text)) yield { text, at };
      at += text.length - 1;
    }
  }
}

/** Index of the closing quote. */
function endOfString(json: string, start: number): number {
  let at = start + 1;
  while (at < json.length && json.charCodeAt(at) !== QUOTE) at += json.charCodeAt(at) === BACKSLASH ? 2 : 1;
  return at;
}

function isExact(text: string): boolean {
  const value = Number(text);
  if (!Number.isFinite(value)) return false;
  // JSON.stringify makes 0 of -0.
  if (value === 0) return !text.startsWith('-') && !/[1-9]/.test(text.split(/e/i, 1)[0]!);
  return decimal(text) === decimal(String(value));
}

/** Digits without zeros around them, and the power of ten that they stand at: equal for equal numbers. */
function decimal(text: string): string {
  const [, sign, whole, fraction = '', exponent = '0'] = PARTS.exec(text)!;
  const digits = `${whole}${fraction}`.replace(/^0+/, '');
  const trimmed = digits.replace(/0+$/, '');
  return `${sign}${trimmed}e${BigInt(exponent) - BigInt(fraction.length) + BigInt(digits.length - trimmed.length)}`;
}
