import { userInfo } from 'node:os';

/** Who runs this process. In a container the user may have no name: then its number. */
export function userName(): string {
  try {
    return userInfo().username;
  } catch {
    return String(process.getuid?.() ?? 'unknown');
  }
}
