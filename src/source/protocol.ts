import type pg from 'pg';
import type { SourceConfig } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import { queryError } from '../postgres/connection.ts';

/** What is asked of pgoutput (PostgreSQL manual, "Logical Streaming Replication Protocol"). */
export interface Protocol {
  readonly version: number;
  /** Whether transactions are sent while they are in progress; parallel adds where and when parts were rolled back. */
  readonly streaming: 'off' | 'on' | 'parallel';
  /** Whether prepared transactions are sent at PREPARE TRANSACTION. */
  readonly twoPhase: boolean;
}

/** What decides it on the server's side. */
export interface ProtocolServer {
  /** server_version_num: 180004 is 18.4. */
  readonly version: number;
  /** Of the slot. Once it is, PREPAREs were passed over that would not come again. */
  readonly twoPhase: boolean;
}

export async function readProtocolServer(client: pg.Client, slot: string): Promise<ProtocolServer> {
  try {
    const { rows } = await client.query<ProtocolServer>(
      `SELECT current_setting('server_version_num')::int AS version,
              COALESCE((SELECT two_phase FROM pg_catalog.pg_replication_slots WHERE slot_name = $1), false) AS "twoPhase"`,
      [slot],
    );
    return rows[0]!;
  } catch (error) {
    throw queryError(error, 'reading the server version');
  }
}

/** The newest that a server of this major version speaks. 13 and older are refused elsewhere. */
function newest(major: number): number {
  return major >= 16 ? 4 : major === 15 ? 3 : 2;
}

/**
 * The newest version that both sides speak, or the one asked for. Throws SOURCE_SETTINGS where the server cannot do what was
 * asked. Pure.
 */
export function negotiate(wanted: SourceConfig['protocol'], server: ProtocolServer): Protocol {
  const major = Math.floor(server.version / 10_000);
  const version = wanted.version ?? newest(major);
  const need = (least: number, what: string, since: number): void => {
    if (version >= least && newest(major) >= least) return;
    throw new WaltideError(
      'SOURCE_SETTINGS',
      `${what} needs protocol version ${least}; asked for is ${version}, and PostgreSQL ${major} speaks up to ${newest(major)}`,
      `Change source.protocol, or use PostgreSQL ${since} or newer.`,
    );
  };
  need(version, `source.protocol.version ${version}`, version === 4 ? 16 : version === 3 ? 15 : 14);
  const twoPhase = wanted.twoPhase || server.twoPhase;
  if (twoPhase) need(3, wanted.twoPhase ? 'source.protocol.twoPhase' : 'the slot, which is two-phase,', 15);
  if (wanted.streaming === 'parallel') need(4, 'source.protocol.streaming: parallel', 16);
  if (wanted.streaming === 'on') need(2, 'source.protocol.streaming: on', 14);
  return { version, streaming: wanted.streaming === 'auto' ? 'off' : wanted.streaming, twoPhase };
}

/** The options of START_REPLICATION, as they stand between its parentheses. */
export function pluginOptions(protocol: Protocol, publications: readonly string[]): string {
  const names = publications.map((name) => `"${name.replaceAll('"', '""')}"`).join(',');
  const options = [
    `proto_version '${protocol.version}'`,
    `publication_names '${names.replaceAll("'", "''")}'`,
    `messages 'true'`,
  ];
  // Older servers know no such option, so it is only named where it is wanted.
  if (protocol.streaming !== 'off') options.push(`streaming '${protocol.streaming}'`);
  // Also makes the slot two-phase, from where it stands.
  if (protocol.twoPhase) options.push(`two_phase 'on'`);
  return options.join(', ');
}
