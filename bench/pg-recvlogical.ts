import { existsSync, readdirSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { type Contender, createSlot, PUBLICATION } from './contender.ts';
import { measure } from './measure.ts';

/** PostgreSQL's own receiver, which only writes bytes to a file: the yardstick of capture. Null where it is not installed. */
export function findPgRecvlogical(): string | null {
  const versions = '/usr/lib/postgresql';
  const debian = existsSync(versions) ? readdirSync(versions).map((version) => join(versions, version, 'bin')) : [];
  for (const dir of [...debian.reverse(), ...(process.env.PATH ?? '').split(delimiter)]) {
    if (existsSync(join(dir, 'pg_recvlogical'))) return join(dir, 'pg_recvlogical');
  }
  return null;
}

export function pgRecvlogicalArgs(url: string, slot: string, file: string): string[] {
  const options = ['proto_version=1', `publication_names=${PUBLICATION}`].flatMap((option) => ['--option', option]);
  return ['-d', url, '-S', slot, '-P', 'pgoutput', ...options, '--start', '--no-loop', '-f', file];
}

export function pgRecvlogical(): Contender {
  return {
    id: 'recvlogical',
    label: 'pg_recvlogical to /dev/null',
    unavailable: () => (findPgRecvlogical() ? '' : 'pg_recvlogical is not installed (Debian: postgresql-client)'),
    prepare: (arena, round) => createSlot(arena.client, slotOf(round)),
    async run(arena, round, goal) {
      const slot = slotOf(round);
      const args = [...pgRecvlogicalArgs(arena.url, slot, '/dev/null'), `--endpos=${goal.endLsn}`];
      const name = `recvlogical-${round}`;
      const { sample } = await measure(arena, {
        name,
        command: findPgRecvlogical()!,
        args,
        slot,
        done: null,
        exits: true,
        usesBroker: false,
      });
      return sample;
    },
  };
}

const slotOf = (round: number) => `bench_recvlogical_${round}`;
