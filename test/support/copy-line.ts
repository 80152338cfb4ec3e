const LETTERS: Record<string, string> = {
  '\b': 'b',
  '\f': 'f',
  '\n': 'n',
  '\r': 'r',
  '\t': 't',
  '\v': 'v',
  '\\': '\\',
};

/** A row as COPY … TO STDOUT writes it: CopyAttributeOutText of PostgreSQL. */
export function copyLine(values: readonly (string | null)[]): Buffer {
  const escaped = (value: string): string =>
    value.replace(/[\b\f\n\r\t\v\\]/g, (character) => `\\${LETTERS[character]}`);
  return Buffer.from(`${values.map((value) => (value === null ? '\\N' : escaped(value))).join('\t')}\n`);
}
