import { WaltideError } from '../errors.ts';
import { ACCESS_ROLES, type AccessRole } from '../postgres/api-keys.ts';
import type { Principal } from './route.ts';

export function mayDo({ role }: Principal, least: AccessRole): boolean {
  return ACCESS_ROLES.indexOf(role) >= ACCESS_ROLES.indexOf(least);
}

/** Throws FORBIDDEN where the role is not enough for `what`. */
export function requireRole(principal: Principal, least: AccessRole, what = 'this'): void {
  if (mayDo(principal, least)) return;
  const message = `${principal.name} has role ${principal.role}, and ${what} needs ${least}`;
  throw new WaltideError('FORBIDDEN', message, `Use a key or token of role ${least}.`);
}
