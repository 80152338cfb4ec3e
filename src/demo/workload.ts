import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { type Lsn, parseLsn } from '../event/lsn.ts';
import { ITEMS_PER_ORDER, productId, type Sizes, skuOf } from './shop.ts';

/** A busy shop, and yet leaves room on two cores for the server, the pipeline and this process. */
const EVENTS_PER_SECOND = 4000;
const SESSIONS = 2;
const ORDERS_AT_ONCE = 5;

export interface WorkloadCounts {
  transactions: number;
  rolledBack: number;
  inserts: number;
  updates: number;
  keyUpdates: number;
  deletes: number;
}

interface Action {
  readonly statements: readonly string[];
  readonly rolledBack?: boolean;
  readonly keys?: boolean;
}

/** Changes the shop as its users would, at a steady rate, until told to stop. */
export class Workload {
  readonly counts: WorkloadCounts = {
    transactions: 0,
    rolledBack: 0,
    inserts: 0,
    updates: 0,
    keyUpdates: 0,
    deletes: 0,
  };
  /** Set once the column is there: from then on orders use it. */
  giftNotes = false;
  readonly #url: string;
  readonly #sizes: Sizes;
  readonly #onCommit: (lsn: Lsn, timeMs: number) => void;
  readonly #stop = new AbortController();
  #running: Promise<unknown> = Promise.resolve();
  #failure: unknown = null;
  #startedAt = 0;
  #random = 0x9e3779b9;
  #orders: number;
  #customers: number;
  #moves = 0;

  constructor(url: string, sizes: Sizes, onCommit: (lsn: Lsn, timeMs: number) => void) {
    this.#url = url;
    this.#sizes = sizes;
    this.#onCommit = onCommit;
    this.#orders = sizes.orders;
    this.#customers = sizes.customers;
  }

  get events(): number {
    const { inserts, updates, keyUpdates, deletes } = this.counts;
    return inserts + updates + keyUpdates + deletes;
  }

  start(): void {
    this.#startedAt = Date.now();
    const sessions = Array.from({ length: SESSIONS }, (_, session) =>
      this.#session(session).catch((error: unknown) => {
        this.#failure ??= error;
      }),
    );
    this.#running = Promise.all(sessions);
  }

  throwFailure(): void {
    if (this.#failure !== null) throw this.#failure;
  }

  /** Resolves = the last transaction is committed. */
  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  async #session(session: number): Promise<void> {
    const client = new pg.Client({
      connectionString: this.#url,
      ssl: false,
      application_name: 'waltide demo workload',
    });
    client.on('error', () => {}); // The query under way tells.
    await client.connect();
    try {
      while (!this.#stop.signal.aborted) {
        const ahead = this.events - ((Date.now() - this.#startedAt) / 1000) * EVENTS_PER_SECOND;
        if (ahead > 0) await sleep((ahead / EVENTS_PER_SECOND) * 1000 + 1);
        else await this.#transact(client, this.#choose(session));
      }
    } finally {
      await client.end().catch(() => {});
    }
  }

  async #transact(client: pg.Client, action: Action): Promise<void> {
    const end = action.rolledBack ? 'ROLLBACK' : 'COMMIT';
    // One round trip; the position after it covers the commit.
    const text = `BEGIN; ${action.statements.join('; ')}; ${end}; SELECT pg_current_wal_insert_lsn()::text AS lsn`;
    const results = (await client.query(text)) as unknown as pg.QueryResult<{ lsn: string }>[];
    if (action.rolledBack) {
      this.counts.rolledBack++;
      return;
    }
    this.#onCommit(parseLsn(results.at(-1)!.rows[0]!.lsn), Date.now());
    this.counts.transactions++;
    for (const { command, rowCount } of results) this.#count(command, rowCount ?? 0, action.keys === true);
  }

  #count(command: string, rows: number, keys: boolean): void {
    if (command === 'INSERT') this.counts.inserts += rows;
    else if (command === 'DELETE') this.counts.deletes += rows;
    else if (command === 'UPDATE' && keys) this.counts.keyUpdates += rows;
    else if (command === 'UPDATE') this.counts.updates += rows;
  }

  #choose(session: number): Action {
    const dice = this.#below(100);
    if (dice < 45) return this.#placeOrders(session);
    if (dice < 65) return this.#advanceOrders(session);
    if (dice < 75) return this.#returnOrders(session);
    if (dice < 83) return this.#changePrices(session);
    if (dice < 90) return this.#moveStock(session);
    if (dice < 97) return this.#changeCustomers(session);
    return { ...this.#placeOrders(session), rolledBack: true };
  }

  #placeOrders(session: number): Action {
    const from = this.#orders + 1;
    const to = this.#orders + ORDERS_AT_ONCE;
    this.#orders = to;
    const { customers, products } = this.#sizes;
    const note = this.giftNotes ? `, CASE WHEN o % 2 = 0 THEN 'Happy birthday, no. ' || o END` : '';
    const orders = `generate_series(${from}, ${to}) AS o`;
    return {
      statements: [
        `INSERT INTO orders (id, customer_id, status, total, currency, delivery, client_ip, placed_at${note && ', gift_note'})
         SELECT o, 1 + (o * 7919) % ${customers}, 'placed', round((random() * 3000)::numeric, 2), 'EUR',
                tstzrange(now(), now() + interval '2 days'), inet '192.168.0.0' + o % 65536, clock_timestamp()${note} FROM ${orders}`,
        `INSERT INTO order_items SELECT o, line, ${productId(`1 + (o * 31 + line) % ${products}`)}, 1 + o % 4,
                round((1 + random() * 900)::numeric, 2),
                CASE WHEN o % 3 = 0 THEN jsonb_build_object('at', clock_timestamp(), 'big', 12345678901234567890::numeric) END
         FROM ${orders}, generate_series(1, ${ITEMS_PER_ORDER}) AS line`,
        `INSERT INTO payments SELECT gen_random_uuid(), o, 'card', round((random() * 3000)::numeric, 2), random()::numeric,
                NULL, clock_timestamp() FROM ${orders}`,
        `UPDATE inventory SET quantity = quantity - 1, counted_at = now() WHERE sku IN (${this.#skus(session, ORDERS_AT_ONCE)})`,
      ],
    };
  }

  #advanceOrders(session: number): Action {
    const note = this.giftNotes ? `, gift_note = coalesce(gift_note, '') || '!'` : '';
    const next = `CASE status WHEN 'placed' THEN 'paid' WHEN 'paid' THEN 'packed' WHEN 'packed' THEN 'shipped'
                  ELSE 'delivered' END::order_status`;
    return {
      statements: [`UPDATE orders SET status = ${next}${note} WHERE id IN (${this.#own(session, this.#orders, 12)})`],
    };
  }

  #returnOrders(session: number): Action {
    const ids = this.#own(session, this.#orders, 2);
    return {
      statements: [
        `DELETE FROM payments WHERE order_id IN (${ids})`,
        `DELETE FROM order_items WHERE order_id IN (${ids})`,
        `DELETE FROM orders WHERE id IN (${ids})`,
      ],
    };
  }

  /** The long descriptions stay as they are, so the WAL does not carry them: the target must keep its own. */
  #changePrices(session: number): Action {
    const ids = this.#own(session, this.#sizes.products, 10)
      .split(',')
      .map((n) => productId(n));
    return {
      statements: [
        `UPDATE products SET price = round(price * 1.01 + 0.01, 2) % 99999, weight_kg = random() * 40,
                updated_at = now() WHERE id IN (${ids.join(',')})`,
      ],
    };
  }

  /** The bin is part of the key: for the target the old row goes and another comes. */
  #moveStock(session: number): Action {
    const bin = `'M-' || ${++this.#moves} || '-' || md5(bin)`;
    return { statements: [`UPDATE inventory SET bin = ${bin} WHERE sku IN (${this.#skus(session, 4)})`], keys: true };
  }

  #changeCustomers(session: number): Action {
    const from = this.#customers + 1;
    const to = this.#customers + 3;
    this.#customers = to;
    return {
      statements: [
        `UPDATE customers SET address = jsonb_set(coalesce(address, '{}'), '{zip}', to_jsonb((random() * 99999)::int)),
                tags = tags[1:3] || 'moved'::text
         WHERE id IN (${this.#own(session, this.#sizes.customers, 6)})`,
        `INSERT INTO customers SELECT n, 'new' || n || '@example.com', 'New ''n'' Shiny ✨', NULL, '{}', NULL, current_date,
                '\\x00ff', clock_timestamp() FROM generate_series(${from}, ${to}) AS n`,
      ],
    };
  }

  /** Numbers from 1 to `max` that belong to this session alone, in order: no two sessions ever wait for each other. */
  #own(session: number, max: number, count: number): string {
    const numbers = Array.from({ length: count }, () => {
      const n = 1 + this.#below(max);
      return n - (n % SESSIONS) + session || SESSIONS;
    });
    return numbers.sort((a, b) => a - b).join(',');
  }

  #skus(session: number, count: number): string {
    return this.#own(session, this.#sizes.products, count)
      .split(',')
      .map((n) => skuOf(n))
      .join(',');
  }

  /** xorshift32: the same shop each time. */
  #below(bound: number): number {
    let x = this.#random;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#random = x;
    return (x >>> 0) % bound;
  }
}
