import { describe, expect, it } from 'vitest';
import { hostsFault, sessionAttributes, urlPerHost } from '../../src/config/hosts.ts';
import { maskedUrl } from '../../src/masked-url.ts';
import { describeUrl } from '../../src/postgres/connection.ts';

const URL = 'postgres://u:p%2Cq@a:5432,b,[::1]:7/db?target_session_attrs=read-write&sslmode=disable';

describe('URLs with several hosts', () => {
  it('give one URL per host, with all that is common', () => {
    expect(urlPerHost(URL)).toEqual([
      'postgres://u:p%2Cq@a:5432/db?target_session_attrs=read-write&sslmode=disable',
      'postgres://u:p%2Cq@b/db?target_session_attrs=read-write&sslmode=disable',
      'postgres://u:p%2Cq@[::1]:7/db?target_session_attrs=read-write&sslmode=disable',
    ]);
    expect(urlPerHost('postgres://u@a/db')).toEqual(['postgres://u@a/db']);
    expect(sessionAttributes(URL)).toBe('read-write');
    expect(sessionAttributes('postgres://u@a,b/db')).toBe('any');
  });

  it('are named without their password', () => {
    expect(describeUrl(URL)).toBe('a:5432,b:5432,[::1]:7/db');
    expect(maskedUrl(URL)).toBe('postgres://u:***@a:5432,b,[::1]:7/db?target_session_attrs=read-write&sslmode=disable');
  });

  it('are refused with what is wrong', () => {
    expect(hostsFault(URL)).toBeNull();
    expect(hostsFault('postgres://u@a,,b/db')).toMatch(/empty host/);
    expect(hostsFault('postgres://u@a:1,b:port/db')).toMatch(/cannot be read as a URL/);
    expect(hostsFault('postgres://u@a,b/db?target_session_attrs=master')).toMatch(/there are any, read-write/);
  });
});
