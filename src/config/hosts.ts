/*
 * Connection URLs with several hosts, as libpq has them: postgres://user@a:5432,b:5433/db?target_session_attrs=read-write.
 * (PostgreSQL manual, "Connection Strings".) The hosts are the servers of one cluster, of which one is the primary.
 */

/** Which of several servers will do: libpq's words. */
export const SESSION_ATTRIBUTES = ['any', 'read-write', 'read-only', 'primary', 'standby', 'prefer-standby'] as const;
export type SessionAttributes = (typeof SESSION_ATTRIBUTES)[number];

const PARTS = /^(postgres(?:ql)?:\/\/(?:[^/?#]*@)?)([^/?#]*)(.*)$/s;

/** One URL for each host of `url`, in order. A URL that is none comes back alone, as it stands. */
export function urlPerHost(url: string): string[] {
  const [, before, hosts, after] = PARTS.exec(url) ?? [];
  return hosts === undefined ? [url] : hosts.split(',').map((host) => `${before}${host}${after}`);
}

/** `target_session_attrs` of a URL that has been checked; `any` where it has none. */
export function sessionAttributes(url: string): SessionAttributes {
  return (new URL(urlPerHost(url)[0]!).searchParams.get('target_session_attrs') ?? 'any') as SessionAttributes;
}

/** What is wrong with its hosts, in words; null for nothing. */
export function hostsFault(url: string): string | null {
  const each = urlPerHost(url);
  if (each.length > 1 && each.some((one) => /^[^@/]*\/\/(?:[^/?#]*@)?(?::\d*)?(?:[/?#]|$)/.test(one)))
    return 'has an empty host between commas';
  if (!each.every((one) => URL.canParse(one)))
    return 'cannot be read as a URL; write "@", "/", "#", "?" and ":" in a password as %40, %2F, %23, %3F and %3A';
  const wanted = sessionAttributes(url);
  return SESSION_ATTRIBUTES.includes(wanted)
    ? null
    : `has target_session_attrs=${wanted}; there are ${SESSION_ATTRIBUTES.join(', ')}`;
}
