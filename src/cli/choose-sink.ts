import { nearest } from '../config/faults.ts';
import type { Config } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';

/** The sink that was asked for; the only one where none was. Throws USAGE. */
export function chooseSink({ sinks }: Config, asked: string | undefined): string {
  const names = sinks.map((sink) => sink.name);
  if (asked === undefined && names.length === 1) return names[0]!;
  const list = names.join(', ') || 'none';
  if (asked === undefined)
    throw new WaltideError('USAGE', `there are ${names.length} sinks`, `Name one with --sink; there are: ${list}.`);
  if (names.includes(asked)) return asked;
  const near = nearest(asked, names);
  throw new WaltideError(
    'USAGE',
    `there is no sink "${asked}"${near ? `; did you mean "${near}"?` : ''}`,
    `Name one with --sink; there are: ${list}.`,
  );
}
