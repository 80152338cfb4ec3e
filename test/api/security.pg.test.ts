import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { request } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { exportJWK, exportSPKI, generateKeyPair, type JWTPayload, SignJWT } from 'jose';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { API_BASE } from '../../src/api/route.ts';
import { eventually } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { apiConfig, createKeys, idle, type Json, startApi, type TestApi } from './support.ts';

const STATUS = `${API_BASE}/cdc/status`;
const QUERY = `${API_BASE}/sinks/a/query`;
const REPLAY = `${API_BASE}/sinks/a/replay`;
const SECRET = 's'.repeat(32);

let database: TestDatabase;
let keys: Awaited<ReturnType<typeof createKeys>>;
const open: TestApi[] = [];

beforeAll(async () => {
  database = await createDatabase();
  keys = await createKeys(database);
});
afterEach(async () => {
  for (const api of open.splice(0)) await api.close();
});
afterAll(() => database?.drop());

async function serve(
  ...options: Parameters<typeof startApi> extends [unknown, ...infer R] ? R : never
): Promise<TestApi> {
  const api = await startApi(database, ...options);
  open.push(api);
  return api;
}

describe('keys', () => {
  test('a key is stored as a hash alone', async () => {
    const [row] = await database.query("select hash, id from waltide.api_keys where name = 'admin'");
    const [, id, secret] = keys.admin.split('_');
    expect(row).toEqual({ id, hash: createHash('sha256').update(secret!).digest() });
    const whole = JSON.stringify(await database.query('select * from waltide.api_keys'));
    expect(whole).not.toContain(secret);
  });

  test('each role may do what those before it may, and no more', async () => {
    const api = await serve();
    const body = { sql: 'select 1' };
    const status = async (key: string, path: string, method: string, sent?: unknown): Promise<number> =>
      (await api.ask(path, { key, method, body: sent })).status;
    for (const key of [keys.viewer, keys.operator, keys.admin]) expect(await status(key, STATUS, 'GET')).toBe(200);
    expect(await status(keys.viewer, QUERY, 'POST', body)).toBe(403);
    for (const key of [keys.operator, keys.admin]) expect(await status(key, QUERY, 'POST', body)).toBe(200);
  });

  test('the key may come in X-API-Key, and never in the URL', async () => {
    const api = await serve();
    expect((await api.ask(STATUS, { headers: { 'x-api-key': keys.viewer } })).status).toBe(200);
    for (const name of ['key', 'api_key', 'token', 'access_token'])
      expect((await api.ask(`${STATUS}?${name}=${keys.viewer}`)).status).toBe(401);
  });

  test('what is no key of ours is refused alike, and the answer holds nothing of it', async () => {
    const api = await serve({ rateLimit: { failuresMax: 1000 } });
    const [, id, secret] = keys.admin.split('_');
    const wrong = [
      ...[
        '',
        'x',
        'waltide_',
        `waltide_${id}_`,
        `waltide_${id}_${'0'.repeat(64)}`,
        `waltide_${'0'.repeat(12)}_${secret}`,
      ],
      ...[`${keys.admin}0`, keys.admin.slice(0, -1), keys.admin.toUpperCase(), `${keys.admin} ${keys.admin}`, 'é'],
      ...["' or 1=1 --", 'a'.repeat(10_000), 'eyJhbGciOiJub25lIn0.eyJyb2xlIjoiYWRtaW4ifQ.'],
    ];
    const details = new Set<string>();
    for (const credential of wrong) {
      const answer = await api.ask(STATUS, { headers: { authorization: `Bearer ${encodeURI(credential)}` } });
      expect(answer.status, credential).toBe(401);
      expect(answer.headers.get('www-authenticate')).toContain('Bearer');
      details.add(answer.json.detail);
      if (credential.length > 3) expect(answer.text).not.toContain(credential);
    }
    expect([...details]).toHaveLength(1);
  });

  test('a revoked key and one that has expired are refused', async () => {
    const api = await serve();
    const before = await api.ask(STATUS, { key: keys.operator });
    expect(before.status).toBe(200);
    await database.query("update waltide.api_keys set revoked_at = now() where name = 'operator'");
    await eventually(
      'the revoked key is refused',
      async () => (await api.ask(STATUS, { key: keys.operator })).status === 401,
    );
    await database.query("update waltide.api_keys set revoked_at = null, expires_at = now() where name = 'operator'");
    await eventually(
      'the old key is refused',
      async () => (await api.ask(STATUS, { key: keys.operator })).status === 401,
    );
    await database.query("update waltide.api_keys set expires_at = null where name = 'operator'");
  });

  test('its use is noted', async () => {
    const api = await serve();
    await api.ask(STATUS, { key: keys.viewer });
    await eventually('last_used_at', async () => {
      const [row] = await database.query("select last_used_at from waltide.api_keys where name = 'viewer'");
      return row!.last_used_at !== null;
    });
  });
});

describe('tokens', () => {
  const sign = (claims: JWTPayload, secret = SECRET, alg = 'HS256'): Promise<string> =>
    new SignJWT({ sub: 'alice', ...claims })
      .setProtectedHeader({ alg })
      .setExpirationTime(claims.exp ?? '5m')
      .sign(new TextEncoder().encode(secret));
  const outcome = async (api: TestApi, token: string): Promise<number> =>
    (await api.ask(STATUS, { key: token })).status;

  test('HS256: the role is that of the claim', async () => {
    const api = await serve({ auth: 'jwt', jwt: { secret: SECRET, roleClaim: 'realm.roles' } });
    const viewer = await sign({ realm: { roles: ['viewer', 'other'] } });
    expect(await outcome(api, viewer)).toBe(200);
    expect((await api.ask(QUERY, { key: viewer, method: 'POST', body: { sql: 'x' } })).status).toBe(403);
    const operator = await sign({ realm: { roles: ['viewer', 'operator'] } });
    expect((await api.ask(QUERY, { key: operator, method: 'POST', body: { sql: 'x' } })).status).toBe(200);
    for (const realm of [undefined, {}, { roles: 'root' }, { roles: {} }, 7])
      expect(await outcome(api, await sign({ realm })), JSON.stringify(realm)).toBe(403);
    expect(await outcome(api, keys.admin)).toBe(401);
  });

  test('what is not to be believed: another secret, none, old, without end, for others', async () => {
    const jwt = { secret: SECRET, issuer: 'https://id', audience: 'waltide' };
    const api = await serve({ auth: 'keys-or-jwt', jwt, rateLimit: { failuresMax: 1000 } });
    const good = { role: 'admin', iss: 'https://id', aud: 'waltide' };
    expect(await outcome(api, await sign(good))).toBe(200);
    expect(await outcome(api, keys.viewer)).toBe(200);
    const now = Math.floor(Date.now() / 1000);
    const unsigned = `${Buffer.from('{"alg":"none"}').toString('base64url')}.${Buffer.from(JSON.stringify({ ...good, sub: 'x', exp: now + 99 })).toString('base64url')}.`;
    const endless = await new SignJWT({ ...good, sub: 'x' })
      .setProtectedHeader({ alg: 'HS256' })
      .sign(new TextEncoder().encode(SECRET));
    const bad = [
      unsigned,
      endless,
      await sign(good, 'x'.repeat(32)),
      await sign({ ...good, exp: now - 300 }),
      await sign({ ...good, iss: 'https://other' }),
      await sign({ ...good, aud: 'other' }),
      await sign({ ...good, nbf: now + 300 }),
      await sign(good, SECRET, 'HS512'),
      `${await sign(good)}x`,
    ];
    for (const token of bad) expect(await outcome(api, token), token).toBe(401);
  });

  test('a subject that is no name', async () => {
    const api = await serve({ auth: 'jwt', jwt: { secret: SECRET }, rateLimit: { failuresMax: 1000 } });
    for (const sub of ['', ' ', 'a\0b', 'a'.repeat(201), 7, null, {}, ['a']] as unknown as string[])
      expect(await outcome(api, await sign({ role: 'viewer', sub })), JSON.stringify(sub)).toBe(401);
    expect(await outcome(api, await sign({ role: 'viewer', sub: 'é'.repeat(200) }))).toBe(200);
  });

  test('RS256: a public key of a file; a token signed with that key as a secret is not believed', async () => {
    const { publicKey, privateKey } = await generateKeyPair('RS256', { extractable: true });
    const pem = await exportSPKI(publicKey);
    const file = join(mkdtempSync(join(tmpdir(), 'waltide-jwt-')), 'key.pem');
    writeFileSync(file, pem);
    const api = await serve({ auth: 'jwt', jwt: { publicKeyFile: file } });
    const token = await new SignJWT({ sub: 'bob', role: 'admin' })
      .setProtectedHeader({ alg: 'RS256' })
      .setExpirationTime('5m')
      .sign(privateKey);
    expect(await outcome(api, token)).toBe(200);
    expect(await outcome(api, await sign({ role: 'admin' }, pem))).toBe(401);
  });

  test('JWKS: keys of an identity provider, and what it says when that cannot be reached', async () => {
    const { publicKey, privateKey } = await generateKeyPair('RS256');
    const jwks = { keys: [{ ...(await exportJWK(publicKey)), kid: 'one', alg: 'RS256', use: 'sig' }] };
    const provider = createServer((_request, response) => response.end(JSON.stringify(jwks)));
    await new Promise<void>((resolve) => provider.listen(0, '127.0.0.1', resolve));
    const jwksUrl = `http://127.0.0.1:${(provider.address() as AddressInfo).port}/jwks`;
    const jwt = { jwksUrl, issuer: 'https://id', audience: 'waltide' };
    const token = (kid: string): Promise<string> =>
      new SignJWT({ sub: 'carol', role: 'viewer', iss: 'https://id', aud: ['waltide'] })
        .setProtectedHeader({ alg: 'RS256', kid })
        .setExpirationTime('5m')
        .sign(privateKey);
    const api = await serve({ auth: 'jwt', jwt });
    expect(await outcome(api, await token('one'))).toBe(200);
    expect(await outcome(api, await token('two'))).toBe(401);
    const later = await serve({ auth: 'jwt', jwt });
    await new Promise((resolve) => provider.close(resolve));
    provider.closeAllConnections();
    expect(await outcome(later, await token('one'))).toBe(503);
  });

  test('a secret of a file; one that is too short is refused', async () => {
    const file = join(mkdtempSync(join(tmpdir(), 'waltide-jwt-')), 'secret');
    writeFileSync(file, `${SECRET}\n`);
    const api = await serve({ auth: 'jwt', jwt: { secretFile: file } });
    expect(await outcome(api, await sign({ role: 'viewer' }))).toBe(200);
    writeFileSync(file, 'short\n');
    await expect(startApi(database, { auth: 'jwt', jwt: { secretFile: file } })).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringContaining('secretFile'),
    });
  });
});

describe('without asking who', () => {
  test('is for loopback alone, and not for pages in a browser', async () => {
    expect(() => apiConfig(database, { auth: 'none', host: '0.0.0.0' })).toThrow(/none is for loopback only/);
    const api = await serve({ auth: 'none' });
    expect((await api.ask(STATUS)).status).toBe(200);
    expect((await api.ask(STATUS, { headers: { origin: 'https://evil.example' } })).status).toBe(403);
  });

  test.each<[string, object, RegExp]>([
    ['jwt without a section', { auth: 'jwt' }, /api\.jwt/],
    ['two ways at once', { auth: 'jwt', jwt: { secret: SECRET, jwksUrl: 'https://id/jwks' } }, /exactly one/],
    [
      'JWKS for everyone',
      { auth: 'jwt', jwt: { jwksUrl: 'https://id/jwks' } },
      /issuer.*is needed|audience.*is needed/,
    ],
    ['JWKS over plain HTTP', { auth: 'jwt', jwt: { jwksUrl: 'http://id/jwks', issuer: 'i', audience: 'a' } }, /https/],
    ['a short secret', { auth: 'jwt', jwt: { secret: 'short' } }, /secret/],
    ['an origin with a path', { cors: ['https://a.example/x'] }, /is no origin/],
  ])('refused: %s', (_what, api, message) => {
    expect(() => apiConfig(database, api)).toThrow(message);
  });
});

describe('limits', () => {
  test('too many requests of one key; another is not touched', async () => {
    const api = await serve({ rateLimit: { requestsMax: 3, windowMs: 60_000 } });
    const statuses = [];
    for (let i = 0; i < 4; i++) statuses.push((await api.ask(STATUS, { key: keys.viewer })).status);
    expect(statuses).toEqual([200, 200, 200, 429]);
    const refused = await api.ask(STATUS, { key: keys.viewer });
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
    expect(refused.json).toMatchObject({ code: 'RATE_LIMITED', status: 429 });
    expect((await api.ask(STATUS, { key: keys.admin })).status).toBe(200);
  });

  test('too many failed logins; a valid key of the same address is let in all the same', async () => {
    const api = await serve({ rateLimit: { failuresMax: 3 } });
    const statuses = [];
    for (let i = 0; i < 4; i++) statuses.push((await api.ask(STATUS, { key: 'waltide_wrong' })).status);
    expect(statuses).toEqual([401, 401, 401, 429]);
    expect((await api.ask(STATUS, { key: keys.viewer })).status).toBe(200);
    const again = await api.ask(STATUS, { key: keys.viewer.replace(/.$/, (last) => (last === '0' ? '1' : '0')) });
    expect(again.status).toBe(429);
    expect(Number(again.headers.get('retry-after'))).toBeGreaterThan(0);
  });

  test('streams of one caller; one that hangs up makes room', async () => {
    const api = await serve({ streamsMax: 2 });
    const stream = async (key: string) => {
      const hangUp = new AbortController();
      const headers = { authorization: `Bearer ${key}` };
      const { status, body } = await fetch(`${api.url}${API_BASE}/events/stream`, { headers, signal: hangUp.signal });
      return { status, body, hangUp: () => hangUp.abort() };
    };
    const [one, two] = [await stream(keys.viewer), await stream(keys.viewer)];
    const refused = await api.ask(`${API_BASE}/events/stream`, { key: keys.viewer });
    expect([one.status, two.status, refused.status]).toEqual([200, 200, 429]);
    expect(refused.json).toMatchObject({ code: 'RATE_LIMITED', help: expect.stringContaining('api.streamsMax') });
    const other = await stream(keys.operator);
    expect(other.status).toBe(200);
    one.hangUp();
    const third: Awaited<ReturnType<typeof stream>>[] = [];
    await eventually('there is room', async () => {
      third.push(await stream(keys.viewer));
      return third.at(-1)!.status === 200;
    });
    for (const each of [two, other, ...third]) each.hangUp();
  });

  test('a body that is nested without end is refused before anything walks through it', async () => {
    const api = await serve();
    const nested = (depth: number): string => `{"data":{"config":${'['.repeat(depth)}${']'.repeat(depth)}}}`;
    for (const [depth, words] of [
      [98, 'table_name'],
      [99, 'more than 100 arrays and objects'],
      [3000, 'more than 100 arrays and objects'],
    ] as const) {
      const { status, json, headers } = await api.ask(`${API_BASE}/sync/operation`, {
        ...{ key: keys.operator, method: 'POST', body: nested(depth) },
        headers: { 'content-type': 'application/json' },
      });
      expect([status, json.detail], `${depth}`).toEqual([400, expect.stringContaining(words)]);
      expect(headers.get('content-type')).toContain('application/problem+json');
    }
    const quoted = await api.ask(QUERY, {
      key: keys.operator,
      method: 'POST',
      body: { sql: `select '${'['.repeat(200)}"'` },
    });
    expect(quoted.status).toBe(200);
  });

  test('a body that is too long, of another type, or no JSON', async () => {
    const api = await serve({ bodyBytesMax: 1024 });
    const post = (body: string, type = 'application/json'): Promise<{ status: number; json: Json }> =>
      api.ask(QUERY, { key: keys.operator, method: 'POST', body, headers: { 'content-type': type } });
    expect(await post(JSON.stringify({ sql: 'x'.repeat(2000) }))).toMatchObject({
      status: 413,
      json: { code: 'BODY_TOO_LARGE' },
    });
    expect((await post('{"sql":"x"}', 'text/plain')).status).toBe(415);
    expect((await post('{"sql":"x"}', 'application/x-www-form-urlencoded')).status).toBe(415);
    for (const body of ['{', '"', '[]', 'null', '{"__proto__":{"a":1}}', '{"constructor":{"prototype":1}}'])
      expect((await post(body)).status, body).toBe(400);
  });
});

describe('browsers', () => {
  test('CORS only for the origins that are listed', async () => {
    const api = await serve({ cors: ['https://ops.example.com'] });
    const preflight = (origin: string): ReturnType<TestApi['ask']> =>
      api.ask(STATUS, {
        method: 'OPTIONS',
        headers: { origin, 'access-control-request-method': 'GET', 'access-control-request-headers': 'authorization' },
      });
    const allowed = await preflight('https://ops.example.com');
    expect(allowed.headers.get('access-control-allow-origin')).toBe('https://ops.example.com');
    expect(allowed.headers.get('access-control-allow-credentials')).toBeNull();
    for (const origin of ['https://evil.example', 'https://ops.example.com.evil.example', 'null'])
      expect((await preflight(origin)).headers.get('access-control-allow-origin'), origin).toBeNull();
  });

  test('security headers and a request id on every answer, also on refusals', async () => {
    const api = await serve();
    for (const path of [STATUS, '/nothing', '/api/v1/docs']) {
      const { headers, status, json } = await api.ask(path);
      expect(headers.get('content-security-policy'), path).toContain("default-src 'none'");
      expect(headers.get('x-content-type-options')).toBe('nosniff');
      expect(headers.get('x-frame-options')).toBe('SAMEORIGIN');
      expect(headers.get('referrer-policy')).toBe('no-referrer');
      expect(headers.get('cache-control')).toBe('no-store');
      expect(headers.get('server')).toBeNull();
      expect(headers.get('x-powered-by')).toBeNull();
      expect(headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/);
      if (status >= 400) {
        expect(headers.get('content-type')).toContain('application/problem+json');
        expect(json.request_id).toBe(headers.get('x-request-id'));
      }
    }
    const kept = await api.ask(STATUS, { headers: { 'x-request-id': 'proxy-17' } });
    expect(kept.headers.get('x-request-id')).toBe('proxy-17');
    const odd = await api.ask(STATUS, { headers: { 'x-request-id': 'a b<script>' } });
    expect(odd.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/);
  });
});

describe('the audit log', () => {
  const rows = (): Promise<Record<string, unknown>[]> => database.query('select * from waltide.audit_log order by id');

  test('who did what, when, with what outcome; also what was refused', async () => {
    await database.query('delete from waltide.audit_log');
    const api = await serve();
    const body = { from: { lsn: '0/10' } };
    const call = (key: string, sent: unknown): ReturnType<TestApi['ask']> =>
      api.ask(REPLAY, { key, method: 'POST', body: sent });
    await api.ask(STATUS, { key: keys.admin });
    await api.ask(QUERY, { key: keys.admin, method: 'POST', body: { sql: 'select 1' } });
    const done = await call(keys.operator, body);
    expect(done.status).toBe(202);
    expect((await call(keys.viewer, body)).status).toBe(403);
    expect((await call(keys.operator, { from: 'x' })).status).toBe(400);
    expect(await rows()).toMatchObject([
      {
        ...{ principal: 'key:operator', role: 'operator', method: 'POST', route: `${API_BASE}/sinks/:name/replay` },
        ...{ outcome: 'accepted', status: 202, error_code: null, target: { name: 'a' }, address: '127.0.0.1' },
        request_id: done.headers.get('x-request-id'),
      },
      { principal: 'key:viewer', outcome: 'refused', status: 403, error_code: 'FORBIDDEN' },
      { principal: 'key:operator', outcome: 'refused', status: 400, error_code: 'USAGE' },
    ]);
  });

  test('where it cannot be written, nothing is done', async () => {
    let replayed = 0;
    const replay: typeof idle.replay = (asked) => {
      replayed++;
      return idle.replay(asked);
    };
    const api = await serve({}, { ...idle, replay });
    await database.query('alter table waltide.audit_log rename to hidden');
    try {
      const answer = await api.ask(REPLAY, { key: keys.admin, method: 'POST', body: { from: { lsn: '0/10' } } });
      expect(answer.status).toBe(422);
      expect(replayed).toBe(0);
    } finally {
      await database.query('alter table waltide.hidden rename to audit_log');
    }
  });

  test('old records go', async () => {
    await database.query("update waltide.audit_log set at = now() - interval '366 days'");
    await serve();
    await eventually('they are gone', async () => (await rows()).length === 0);
  });
});

test('TLS', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'waltide-tls-'));
  const [certFile, keyFile] = [join(folder, 'cert.pem'), join(folder, 'key.pem')];
  const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1'];
  execFileSync(
    'openssl',
    ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-keyout', keyFile, '-out', certFile, ...subject],
    { stdio: 'ignore' },
  );
  const api = await serve({ tls: { certFile, keyFile } });
  expect(api.url).toMatch(/^https:/);
  const status = await new Promise((resolve, reject) => {
    const headers = { authorization: `Bearer ${keys.viewer}` };
    request(`${api.url}${STATUS}`, { ca: readFileSync(certFile), headers }, (response) => {
      response.resume();
      resolve([response.statusCode, response.headers['strict-transport-security']?.startsWith('max-age=')]);
    })
      .on('error', reject)
      .end();
  });
  expect(status).toEqual([200, true]);
  await expect(startApi(database, { tls: { certFile, keyFile: join(folder, 'none') } })).rejects.toMatchObject({
    code: 'CONFIG_INVALID',
    message: expect.stringContaining('keyFile'),
  });
});
