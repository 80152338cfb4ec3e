/* What may be told of URLs: not the secrets in them. Below everything, since whatever is printed, logged or stored goes by it. */

export const MASK = '***';
const SECRET_PARAMETER = /pass|secret|token/i;

/** A URL that may be printed or logged. Also for text that only looks like a URL. */
export function maskedUrl(url: string): string {
  return url
    .replace(/^([a-z][a-z0-9+.-]*:\/\/[^:/?#@]*):.*@/i, `$1:${MASK}@`)
    .replace(/([?&])([^=&#]+)=([^&#]*)/g, (whole, start: string, key: string) =>
      SECRET_PARAMETER.test(key) ? `${start}${key}=${MASK}` : whole,
    );
}

/** Text that may hold URLs, such as what a driver or a module of somebody says of its connection. */
export function maskedText(text: string): string {
  return text.includes('://') ? text.replace(/[a-z][a-z0-9+.-]*:\/\/\S+/gi, maskedUrl) : text;
}
