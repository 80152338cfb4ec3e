import { expect, test } from 'vitest';
import { ServerError } from '../../src/postgres/copy-session.ts';
import { serverRefusal } from '../../src/source/refusals.ts';

// Taken from servers: a row of 600 MB text and 250 MB bytea makes a message of 1.1 GB, which takes half a minute each.
test.each([
  ['18', 'string buffer exceeds maximum allowed length (1073741823 bytes)', '54000'],
  ['before', 'invalid memory alloc request size 1200000027', 'XX000'],
])('a row that the server cannot send is not asked for again and again: %s', (_version, message, code) => {
  const error = serverRefusal(new ServerError(message, code));
  expect(error).toMatchObject({ code: 'SOURCE_ROW_TOO_LONG', retry: false, help: expect.stringContaining('--recopy') });
  expect(error.message).toContain(message);
});

test('any other end is a lost connection', () => {
  const error = serverRefusal(new ServerError('terminating connection due to administrator command', '57P01'));
  expect(error).toMatchObject({ code: 'SOURCE_CONNECTION_LOST', retry: true });
});
