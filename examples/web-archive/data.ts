import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import pg from 'pg';

/** Random, and the same for the same seed (mulberry32). */
export class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  /** A whole number from 0 below `below`. */
  int(below: number): number {
    return Math.floor(this.next() * below);
  }

  chance(share: number): boolean {
    return this.next() < share;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.int(list.length)]!;
  }

  some<T>(list: readonly T[], most: number): T[] {
    return Array.from({ length: this.int(most + 1) }, () => this.pick(list));
  }

  uuid(): string {
    const hex = Array.from({ length: 32 }, () => this.int(16).toString(16)).join('');
    return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20)}`;
  }

  /** Microseconds, as PostgreSQL keeps them. */
  moment(): string {
    const ms = Date.UTC(2008, 0, 1) + this.next() * 17 * 365 * 86_400_000;
    return `${new Date(ms).toISOString().slice(0, -1)}${String(this.int(1000)).padStart(3, '0')}Z`;
  }
}

export interface Sizes {
  readonly users: number;
  readonly projects: number;
  readonly domains: number;
  readonly pages: number;
}

type Row = Readonly<Record<string, unknown>>;

const WORDS =
  'archive press council 新聞 minister budget strike harbour élection Straße climate report survey cat 🗞️ record page source data law river'.split(
    ' ',
  );
const HOSTS = ['example.org', 'news.example.com', 'gazette.example.net', 'münchen.example.de', 'blog.example.io'];
const MIME = ['text/html', 'text/html', 'text/html', 'application/pdf', 'application/xhtml+xml'];
const REVIEWS = ['unreviewed', 'unreviewed', 'relevant', 'irrelevant', 'needs_review', 'duplicate'];
const TAGS = ['Elections', ' climate ', 'primary "source"', 'back\\slash', 'a, b', 'Ünïcode', 'todo'];

function sentence(dice: Dice, words: number): string {
  return Array.from({ length: words }, () => dice.pick(WORDS)).join(' ');
}

function user(dice: Dice, id: number): Row {
  return {
    id,
    email: `${dice.pick(['ada', 'lin', 'omar', 'zoë'])}.${id}@${dice.pick(HOSTS)}`,
    full_name: `${dice.pick(['Ada', 'Lin', 'Omar', 'Zoë'])} ${dice.pick(["O'Neill", 'Núñez', 'Ng', '李'])}`,
    phone: dice.chance(0.3) ? null : `+49 30 ${1_000_000 + dice.int(9_000_000)}`,
    hashed_password: `$2b$12$${createHash('sha256').update(`${id}`).digest('base64').slice(0, 53)}`,
    is_active: dice.chance(0.95),
    is_superuser: id === 1,
    settings: { theme: dice.pick(['dark', 'light']), page_size: dice.pick([25, 50, 1e3]), ratio: dice.next() },
    research_fields: dice.some(['history', 'law', 'media, digital', 'économie'], 3),
    last_login_at: dice.chance(0.2) ? null : dice.moment(),
    created_at: dice.moment(),
    updated_at: dice.moment(),
  };
}

function project(dice: Dice, id: number, { users, domains }: Sizes): Row {
  const starts = dice.moment().slice(0, 10);
  return {
    id,
    user_id: 1 + dice.int(users),
    public_id: dice.uuid(),
    name: sentence(dice, 3),
    description: dice.chance(0.2) ? null : sentence(dice, 10 + dice.int(60)),
    // The first ones have domains for certain.
    status: id <= domains ? dice.pick(['indexing', 'indexed']) : dice.pick(['draft', 'no_index', 'archived']),
    config: {
      languages: dice.some(['en', 'de', 'zh'], 3),
      depth: dice.int(5),
      nested: { since: starts, "it's": null },
    },
    keywords: dice.some(WORDS, 5),
    starts_on: starts,
    ends_on: dice.chance(0.5) ? null : '2031-12-31',
    budget: dice.chance(0.5) ? null : (dice.int(100_000_000) / 100).toFixed(2),
    is_public: dice.chance(0.3),
    created_at: dice.moment(),
    updated_at: dice.moment(),
  };
}

function domain(dice: Dice, id: number, { projects }: Sizes): Row {
  return {
    id,
    project_id: ((id - 1) % projects) + 1,
    domain_name: `${id}.${dice.pick(HOSTS)}`,
    include_paths: dice.some(['/news/', '/2019/%', '/a"b', '/ä/'], 3),
    exclude_paths: dice.chance(0.4) ? null : dice.some(['/tag/', '/wp-json/'], 2),
    status: dice.pick(['active', 'paused', 'failing', 'done']),
    scrape_every: dice.pick(['1 day', '06:00:00', '1 mon 2 days 03:04:05.000006', '-1 days +02:03:00']),
    rate_limit: dice.chance(0.3) ? null : (dice.int(999_999) / 1000).toFixed(3),
    total_pages: dice.int(100_000),
    last_scraped_at: dice.chance(0.2) ? null : dice.moment(),
    created_at: dice.moment(),
    updated_at: dice.moment(),
  };
}

/** One capture, as the scraper writes it; one in fifty has a text that PostgreSQL keeps out of line. */
export function page(dice: Dice, domainId: number): Row {
  const url = `https://${domainId}.${dice.pick(HOSTS)}/${dice.int(1e9).toString(36)}?utm_source=x&q=${dice.int(100)}`;
  const captured = dice.moment();
  const text = dice.chance(0.02)
    ? Array.from({ length: 200 }, () => sentence(dice, 40)).join('\n')
    : sentence(dice, 20 + dice.int(200));
  return {
    id: dice.uuid(),
    domain_id: domainId,
    original_url: url,
    wayback_url: dice.chance(0.1)
      ? null
      : `https://web.archive.org/web/${captured.replace(/\D/g, '').slice(0, 14)}/${url}`,
    url_hash: `\\x${createHash('sha256').update(url).digest('hex')}`,
    title: dice.chance(0.05) ? null : `${sentence(dice, 5)}${dice.chance(0.05) ? '\t"quoted"\r\n\\N' : ''}`,
    extracted_text: dice.chance(0.05) ? null : text,
    mime_type: dice.pick(MIME),
    http_status: dice.pick([200, 200, 200, 301, 404, null]),
    content_length: dice.chance(0.01) ? '9007199254740993' : dice.int(5_000_000),
    captured_at: captured,
    published_at: dice.chance(0.5) ? null : dice.moment().slice(0, -1),
    language: dice.pick(['en', 'de', 'zh', null]),
    word_count: dice.int(20_000),
    quality: dice.chance(0.1) ? null : (dice.int(1_000_000) / 10_000).toFixed(4),
    fingerprint: dice.chance(0.01) ? 'NaN' : dice.next() * 10 ** (dice.int(40) - 20),
    links: dice.some([url, 'https://example.org/?a=1,2', 'javascript:"x"', ''], 6),
    headers: dice.chance(0.2) ? null : { 'content-type': dice.pick(MIME), 'x-cache': dice.int(9), set: [1, 2.5, null] },
    meta: { score: dice.next(), tags: dice.some(TAGS, 3), big: '1e400', deep: { a: [{ b: sentence(dice, 3) }] } },
    created_at: '2026-01-01T00:00:00.000001Z',
    updated_at: dice.moment(),
  };
}

function review(dice: Dice, pageId: unknown, { users, projects }: Sizes): Row {
  return {
    project_id: 1 + dice.int(projects),
    page_id: pageId,
    added_by: dice.chance(0.1) ? null : 1 + dice.int(users),
    review_status: dice.pick(REVIEWS),
    tags: dice.some(TAGS, 4),
    reviewer_notes: dice.chance(0.5) ? null : sentence(dice, 12),
    internal_score: dice.chance(0.5) ? null : dice.next(),
    relevance: dice.chance(0.2) ? null : dice.int(11),
    is_starred: dice.chance(0.1),
    added_at: dice.moment(),
    updated_at: dice.moment(),
  };
}

/** Inserts rows, each column by the table's own type. */
export async function insert(client: pg.Client, table: string, rows: readonly Row[]): Promise<void> {
  const columns = Object.keys(rows[0] ?? {}).map((name) => client.escapeIdentifier(name));
  for (let from = 0; from < rows.length; from += 500)
    await client.query(
      `INSERT INTO ${table} (${columns.join(', ')})
       SELECT ${columns.join(', ')} FROM jsonb_populate_recordset(NULL::${table}, $1) ON CONFLICT DO NOTHING`,
      [JSON.stringify(rows.slice(from, from + 500))],
    );
}

const list = <T>(count: number, make: (id: number) => T): T[] => Array.from({ length: count }, (_, i) => make(i + 1));

/** Makes the tables and fills them: the same rows for the same seed. */
export async function fillArchive(url: string, sizes: Sizes, seed = 1): Promise<void> {
  const client = new pg.Client(url);
  await client.connect();
  try {
    await client.query(await readFile(new URL('schema.sql', import.meta.url), 'utf8'));
    const dice = new Dice(seed);
    await insert(
      client,
      'users',
      list(sizes.users, (id) => user(dice, id)),
    );
    await insert(
      client,
      'projects',
      list(sizes.projects, (id) => project(dice, id, sizes)),
    );
    await insert(
      client,
      'domains',
      list(sizes.domains, (id) => domain(dice, id, sizes)),
    );
    const pages = list(sizes.pages, () => page(dice, 1 + dice.int(sizes.domains)));
    await insert(client, 'pages_v2', pages);
    await insert(
      client,
      'project_pages',
      pages.map(({ id }) => review(dice, id, sizes)),
    );
    const secrets = list(sizes.users, (id) => ({ user_id: id, token: `secret-${dice.uuid()}` }));
    await insert(client, 'api_tokens', secrets);
    await client.query(`INSERT INTO sessions (user_id, cookie, expires_at) SELECT id, md5(id::text), now() FROM users`);
    for (const table of ['users', 'projects', 'domains'])
      await client.query(`SELECT setval(pg_get_serial_sequence($1, 'id'), (SELECT max(id) FROM ${table}))`, [table]);
  } finally {
    await client.end();
  }
}

/** What people and the scraper do, a transaction each, until `signal` aborts or so many are done. Resolves with how many were. */
export async function scrape(
  url: string,
  sizes: Sizes,
  { seed, transactions, signal }: { seed: number; transactions: number; signal?: AbortSignal },
): Promise<number> {
  const client = new pg.Client(url);
  client.on('error', () => {}); // The query under way tells.
  await client.connect();
  const dice = new Dice(seed);
  let done = 0;
  try {
    for (; done < transactions && !signal?.aborted; done++) {
      await client.query('BEGIN');
      await step(client, dice, sizes);
      // One in twenty is thought better of.
      await client.query(dice.chance(0.05) ? 'ROLLBACK' : 'COMMIT');
    }
  } finally {
    await client.end();
  }
  return done;
}

const ANY_PAGE = '(SELECT id FROM pages_v2 WHERE id >= $1::uuid ORDER BY id LIMIT 1)';

async function step(client: pg.Client, dice: Dice, sizes: Sizes): Promise<void> {
  const domainId = 1 + dice.int(sizes.domains);
  const someId = dice.uuid();
  switch (dice.int(8)) {
    case 0:
    case 1: {
      // A scrape: captures, what they are for, and the domain's count, all at once.
      const { rowCount } = await client.query('SELECT FROM domains WHERE id = $1 FOR UPDATE', [domainId]);
      if (rowCount === 0) return;
      const pages = list(1 + dice.int(20), () => page(dice, domainId));
      await insert(client, 'pages_v2', pages);
      const people = { ...sizes, projects: Math.min(sizes.projects, 3) };
      await insert(
        client,
        'project_pages',
        pages.map(({ id }) => review(dice, id, people)),
      );
      await client.query(
        'UPDATE domains SET total_pages = total_pages + $2, last_scraped_at = now(), updated_at = now() WHERE id = $1',
        [domainId, pages.length],
      );
      return;
    }
    case 2: // Found again: the long text stays as it is.
      await client.query(
        `UPDATE pages_v2 SET http_status = $2, meta = meta || $3, updated_at = now() WHERE id = ${ANY_PAGE}`,
        [someId, dice.pick([200, 404]), JSON.stringify({ seen: dice.int(100) })],
      );
      return;
    case 3: // Read again.
      await client.query(
        `UPDATE pages_v2 SET extracted_text = $2, title = $3, updated_at = now() WHERE id = ${ANY_PAGE}`,
        [someId, sentence(dice, dice.int(3000)), sentence(dice, 4)],
      );
      return;
    case 4: // Review: in and out of what leaves.
      await client.query(
        `UPDATE project_pages SET review_status = $2, tags = $3, relevance = $4, updated_at = now() WHERE page_id = ${ANY_PAGE}`,
        [someId, dice.pick(REVIEWS), dice.some(TAGS, 4), dice.int(11)],
      );
      return;
    case 5: // With what people said of it.
      await client.query(`DELETE FROM pages_v2 WHERE id = ${ANY_PAGE}`, [someId]);
      return;
    case 6:
      await client.query('UPDATE users SET last_login_at = now(), phone = $2, updated_at = now() WHERE id = $1', [
        1 + dice.int(sizes.users),
        dice.chance(0.3) ? null : `+43 1 ${dice.int(1e7)}`,
      ]);
      return;
    default:
      await client.query(`UPDATE projects SET config = config || $2, budget = $3, updated_at = now() WHERE id = $1`, [
        1 + dice.int(sizes.projects),
        JSON.stringify({ round: dice.int(1e6) }),
        (dice.int(1e9) / 100).toFixed(2),
      ]);
  }
}
