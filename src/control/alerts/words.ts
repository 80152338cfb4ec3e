/** `90 s`, `16 min`, `2 h 5 min`. */
export function span(seconds: number): string {
  const whole = Math.round(seconds);
  if (whole < 120) return `${whole} s`;
  const minutes = Math.round(whole / 60);
  return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** `12 MB`, in powers of 1024. */
export function size(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  const unit = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
  return `${Math.round(bytes / 1024 ** unit)} ${units[unit]}`;
}

/** What a fault says may be long; a message in a chat may not. */
const SENTENCE_LENGTH_MAX = 1000;

/** One that PostgreSQL's text and jsonb can hold. */
export function sentence(text: string): string {
  const short = text.length > SENTENCE_LENGTH_MAX ? `${text.slice(0, SENTENCE_LENGTH_MAX - 1)}…` : text;
  // Half a surrogate pair becomes U+FFFD by way of bytes.
  return Buffer.from(short).toString().replaceAll('\u0000', '\ufffd');
}
