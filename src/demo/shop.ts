import type pg from 'pg';

/*
 * A small shop. Types and values are chosen to be awkward: money that no double holds, microseconds, JSON, arrays with
 * NULL and quotes in them, bytes, ranges, an enum, a domain, text long enough to be TOASTed, names from all over.
 */
const TABLES = `
CREATE TYPE order_status AS ENUM ('placed', 'paid', 'packed', 'shipped', 'delivered', 'returned');
CREATE TYPE payment_method AS ENUM ('card', 'transfer', 'wallet', 'invoice');
CREATE DOMAIN email_address AS text CHECK (VALUE LIKE '%_@_%');

CREATE TABLE customers (
  id bigint PRIMARY KEY, email email_address NOT NULL, name text NOT NULL, address jsonb, tags text[] NOT NULL,
  newsletter boolean, birthday date, avatar bytea, signed_up_at timestamptz NOT NULL
);
CREATE TABLE products (
  id uuid PRIMARY KEY, sku text NOT NULL, name text NOT NULL, description text, price numeric(10,2) NOT NULL, weight_kg double precision,
  size_cm integer[], attributes jsonb NOT NULL, warranty interval, thumbnail bytea, updated_at timestamptz NOT NULL
);
CREATE TABLE inventory (
  sku text, bin text, quantity integer NOT NULL, counted_at timestamp, PRIMARY KEY (sku, bin)
);
CREATE TABLE orders (
  id bigint PRIMARY KEY, customer_id bigint NOT NULL, status order_status NOT NULL, total numeric(12,2) NOT NULL,
  currency varchar(3) NOT NULL, delivery tstzrange, client_ip inet, placed_at timestamptz NOT NULL
);
CREATE TABLE order_items (
  order_id bigint, line smallint, product_id uuid NOT NULL, quantity integer NOT NULL, unit_price numeric(10,2) NOT NULL,
  options jsonb, PRIMARY KEY (order_id, line)
);
CREATE TABLE payments (
  id uuid PRIMARY KEY, order_id bigint NOT NULL, method payment_method NOT NULL, amount numeric(12,2) NOT NULL, fee numeric,
  receipt bytea, captured_at timestamptz
);`;

/** After the rows: one join per key is quicker than a look-up per row. */
const REFERENCES = `
ALTER TABLE orders ADD FOREIGN KEY (customer_id) REFERENCES customers;
ALTER TABLE order_items ADD FOREIGN KEY (order_id) REFERENCES orders, ADD FOREIGN KEY (product_id) REFERENCES products;
ALTER TABLE payments ADD FOREIGN KEY (order_id) REFERENCES orders;
CREATE INDEX ON payments (order_id);
ANALYZE;`;

const FIRST_NAMES = `ARRAY['Ada', 'Zoë', 'Łukasz', 'Noël', '李', 'Grace', 'Søren', 'Mária', 'Олена', 'Jo']`;
const LAST_NAMES = `ARRAY['O''Brien', 'Müller', 'Nguyễn', 'Smith', '王', 'García', 'Kovač', '🙂 Doe']`;

/** Of table rows `n` from $from to $to; the counts of customers and products say what a row may refer to. */
export interface Sizes {
  readonly customers: number;
  readonly products: number;
  readonly inventory: number;
  readonly orders: number;
  readonly order_items: number;
  readonly payments: number;
}

export const ITEMS_PER_ORDER = 3;
export const productId = (n: string): string => `md5('product ' || (${n}))::uuid`;
export const skuOf = (n: string): string => `'SKU-' || lpad((${n})::text, 6, '0')`;

/** Shares that add up to `rows`, or a few more where that is very small. */
export function sizesFor(rows: number): Sizes {
  const share = (part: number): number => Math.max(10, Math.floor(rows * part));
  const customers = share(0.12);
  const products = share(0.02);
  const inventory = products * 2;
  const orders = Math.max(20, Math.floor((rows - customers - products - inventory) / (ITEMS_PER_ORDER + 2)));
  const order_items = orders * ITEMS_PER_ORDER;
  const payments = Math.max(orders, rows - customers - products - inventory - orders - order_items);
  return { customers, products, inventory, orders, order_items, payments };
}

function fillers(sizes: Sizes): Record<keyof Sizes, string> {
  return {
    customers: `
SELECT n, 'user' || n || '@example.com', (${FIRST_NAMES})[1 + n % 10] || ' ' || (${LAST_NAMES})[1 + n % 8],
  CASE WHEN n % 10 > 0 THEN jsonb_build_object(
    'city', (ARRAY['København', 'Paris', '東京', 'Lagos'])[1 + n % 4], 'zip', lpad((n % 99999)::text, 5, '0'),
    'geo', jsonb_build_array(round((random() * 180 - 90)::numeric, 6), round((random() * 360 - 180)::numeric, 6))) END,
  (ARRAY['{}', '{vip}', '{new,"says \\"hi\\""}', '{"a,b",NULL,"NULL"}'])[1 + n % 4]::text[],
  CASE n % 3 WHEN 0 THEN true WHEN 1 THEN false END, date '1950-01-01' + (n % 20000)::int, decode(md5(n::text), 'hex'),
  timestamptz '2021-01-01 00:00:00+00' + random() * interval '4 years'`,
    products: `
SELECT ${productId('n')}, ${skuOf('n')}, (ARRAY['Lamp', 'Café chair', 'Teapot', 'Rug 2×3 m'])[1 + n % 4] || ' no. ' || n,
  CASE WHEN n % 8 = 0 THEN (SELECT string_agg(md5((n * 100 + i)::text), ' ') FROM generate_series(1, 100) i) ELSE 'A fine thing.' END,
  round((1 + random() * 900)::numeric, 2), CASE WHEN n % 7 > 0 THEN random() * 40 END, ARRAY[n % 50, 10 + n % 90, n % 33]::int[],
  jsonb_build_object('colour', (ARRAY['red', 'grün', 'blue'])[1 + n % 3], 'rating', round((random() * 5)::numeric, 3),
    'stock', 9007199254740993 + n),
  make_interval(months => (n % 37)::int, days => (n % 20)::int), decode(repeat(md5(n::text), 4), 'hex'),
  timestamptz '2024-06-01 12:00:00.123456+00' + n * interval '1.000001 s'`,
    inventory: `
SELECT ${skuOf(`1 + (n - 1) % ${sizes.products}`)}, 'A-' || n, (random() * 500)::int,
  timestamp '2024-12-31 23:59:59.999999' - n * interval '1 min'`,
    orders: `
SELECT n, 1 + (n * 7919) % ${sizes.customers}, (ARRAY['placed', 'paid', 'packed', 'shipped', 'delivered'])[1 + n % 5]::order_status,
  round((random() * 3000)::numeric, 2), (ARRAY['EUR', 'USD', 'DKK'])[1 + n % 3],
  tstzrange(timestamptz '2025-01-01 08:00+00' + n * interval '1 min', timestamptz '2025-01-01 12:00+00' + n * interval '1 min'),
  CASE WHEN n % 5 > 0 THEN inet '10.0.0.0' + n END, timestamptz '2025-01-01 00:00+00' + n * interval '37.000013 s'`,
    order_items: `
SELECT 1 + (n - 1) / ${ITEMS_PER_ORDER}, 1 + (n - 1) % ${ITEMS_PER_ORDER}, ${productId(`1 + (n * 104729) % ${sizes.products}`)}, 1 + n % 5,
  round((1 + random() * 900)::numeric, 2), CASE WHEN n % 4 = 0 THEN '{"gift": true, "note": "für Dich"}'::jsonb END`,
    payments: `
SELECT gen_random_uuid(), 1 + (n - 1) % ${sizes.orders}, (ARRAY['card', 'transfer', 'wallet', 'invoice'])[1 + n % 4]::payment_method,
  round((random() * 3000)::numeric, 2), CASE WHEN n % 3 > 0 THEN random()::numeric * 10 END,
  CASE WHEN n % 6 = 0 THEN decode(md5(n::text), 'hex') END, timestamptz '2025-01-01 00:00+00' + n * interval '41.000007 s'`,
  };
}

export async function createShop(client: pg.Client): Promise<void> {
  await client.query(TABLES);
}

/** Fills every table inside the server, telling the rows of each. */
export async function fillShop(
  client: pg.Client,
  sizes: Sizes,
  filled: (table: string, rows: number) => void,
): Promise<void> {
  for (const [table, select] of Object.entries(fillers(sizes)) as [keyof Sizes, string][]) {
    await client.query(`INSERT INTO ${table} ${select} FROM generate_series(1::bigint, ${sizes[table]}) AS n`);
    filled(table, sizes[table]);
  }
  await client.query(REFERENCES);
}
