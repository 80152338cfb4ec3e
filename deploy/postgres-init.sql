-- Run once by the postgres image, in database shop, so that there is something to capture.
create table customers (
  id bigint generated always as identity primary key,
  name text not null,
  created_at timestamptz not null default now()
);

create table orders (
  id bigint generated always as identity primary key,
  customer_id bigint not null references customers,
  amount numeric(12, 2) not null,
  status text not null default 'new',
  created_at timestamptz not null default now()
);

insert into customers (name) select 'Customer ' || n from generate_series(1, 100) n;
insert into orders (customer_id, amount) select 1 + n % 100, n * 1.25 from generate_series(1, 1000) n;
