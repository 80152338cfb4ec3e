import { WaltideError } from '../errors.ts';
import { formatLsn, type Lsn } from '../event/lsn.ts';
import type { ServerError } from '../postgres/copy-session.ts';

/** One message is one allocation, which ends at 1 GB - 1 (MaxAllocSize); the words differ by version. */
const TOO_LONG = /string buffer exceeds|enlarge string buffer|invalid memory alloc request size/i;

/** What a walsender's error means, and what to do. */
export function serverRefusal(error: ServerError): WaltideError {
  const options = { cause: error };
  if (TOO_LONG.test(error.message))
    return new WaltideError(
      'SOURCE_ROW_TOO_LONG',
      `a changed row is longer than PostgreSQL can send, 1 GB as text: ${error.message}`,
      'The slot cannot pass it, and keeps WAL meanwhile. Shorten or delete the row, or leave its table out; then stop this process and copy anew with `waltide run --recopy`.',
      options,
    );
  if (error.code === '55000' && /can no longer|invalidated|lost/i.test(error.message))
    return new WaltideError(
      'SLOT_LOST',
      error.message,
      'Changes are missing for good. Copy anew with `waltide run --recopy`.',
      options,
    );
  if (error.code === '42704' && /publication/.test(error.message))
    return new WaltideError(
      'PUBLICATION',
      error.message,
      'It was dropped, and PostgreSQL cannot decode what was committed without it. Copy anew with `waltide run --recopy`.',
      options,
    );
  if (error.code === '42501')
    return new WaltideError(
      'SOURCE_RIGHTS',
      error.message,
      'Grant the missing right; `waltide doctor` lists every one that is needed.',
      options,
    );
  if (error.code.startsWith('22') || error.code.startsWith('42'))
    return new WaltideError(
      'SOURCE_QUERY',
      error.message,
      '`waltide doctor` checks the source and says what to change.',
      options,
    );
  if (error.code === '55006')
    return new WaltideError('SLOT_IN_USE', error.message, 'Stop the other process that uses the slot.', options);
  if (error.code === '53300')
    return new WaltideError(
      'SOURCE_BUSY',
      `no walsender is free: ${error.message}`,
      'Raise max_wal_senders, or end what holds them.',
      options,
    );
  return new WaltideError(
    'SOURCE_CONNECTION_LOST',
    `the server ended the stream: ${error.message}`,
    'It is tried again.',
    options,
  );
}

/** An error that nothing else is known of, but that it comes again and again at the same place of the stream. */
export function serverStuck(error: ServerError, at: Lsn, times: number): WaltideError {
  return new WaltideError(
    'SOURCE_QUERY',
    `the server cannot go on with the stream behind ${formatLsn(at)}, ${times} times in a row: ${error.message} (SQLSTATE ${error.code})`,
    'Look into the server’s log. Where it cannot be mended there, copy anew with `waltide run --recopy`.',
    { cause: error },
  );
}
