const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/**
 * Most arrays and objects inside one another in JSON that somebody sends. Whatever walks through it (schemas, JSON.stringify) takes
 * a frame of the stack for each, and ends at a few thousand, as PostgreSQL's `max_stack_depth` does; a document is far from it.
 */
export const JSON_DEPTH_MAX = 100;

/** Of text that has not been parsed: it need not be valid. */
export function isTooDeepText(json: string): boolean {
  let depth = 0;
  for (let at = 0; at < json.length; at++) {
    const code = json.charCodeAt(at);
    if (code === QUOTE) {
      for (at++; at < json.length && json.charCodeAt(at) !== QUOTE; ) at += json.charCodeAt(at) === BACKSLASH ? 2 : 1;
    } else if (code === 0x5b || code === 0x7b) {
      if (++depth > JSON_DEPTH_MAX) return true;
    } else if (code === 0x5d || code === 0x7d) depth--;
  }
  return false;
}

/** Of a value that JSON.stringify is to take, one that holds itself included. */
export function isTooDeep(value: unknown, allowed = JSON_DEPTH_MAX): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return allowed === 0 || Object.values(value).some((one) => isTooDeep(one, allowed - 1));
}
