import { execFileSync } from 'node:child_process';

/** A file system of `size` ("12m") over an empty folder, to fill up; null where mounting is not allowed (it takes root). */
export function smallDisk(path: string, size: string): { grow(size: string): void; remove(): void } | null {
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', path], { stdio: 'ignore' });
  } catch {
    return null;
  }
  return {
    grow: (to) => void execFileSync('mount', ['-o', `remount,size=${to}`, path]),
    remove: () => void execFileSync('umount', ['-l', path]),
  };
}
