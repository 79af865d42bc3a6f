-- The companion consumer: how far it has read, what it has handled, what it could not fold, and the first projection.

-- How far each group has folded each partition. This, not Kafka's committed offset, is where a consumer goes on: it moves
-- in the same transaction as the fold. epoch counts the takings of the partition; a fold by an older epoch changes nothing.
create table consumer_partitions (
  consumer_group text not null,
  topic text not null,
  partition int not null,
  epoch bigint not null,
  next_offset bigint not null,
  updated_at timestamptz not null default now(),
  primary key (consumer_group, topic, partition),
  constraint consumer_partitions_not_negative check (partition >= 0 and epoch >= 1 and next_offset >= 0)
) with (
  -- A few rows, each updated with every batch. Pages are mostly left free, so that every update is HOT, and the table is
  -- vacuumed by the number of dead rows: a share of a few rows would do it all the time.
  fillfactor = 10,
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 1000,
  autovacuum_analyze_scale_factor = 0,
  autovacuum_analyze_threshold = 100000
);

-- Events whose effect is in the projections (or that are parked), so that a redelivery has none.
create table event_handled (
  consumer_group text not null,
  event_id uuid not null,
  event_type text,
  aggregate_type text,
  aggregate_id text,
  event_version int not null default 1,
  topic text not null,
  partition int not null,
  "offset" bigint not null,
  handled_at timestamptz not null default now(),
  primary key (consumer_group, event_id)
) with (
  -- Only inserts, then deletes of the oldest. By default a vacuum would wait for a fifth of the table and then freeze
  -- all of that at once; in steps of half a million rows it stays small, and rows that never change can be frozen at once.
  autovacuum_vacuum_insert_scale_factor = 0,
  autovacuum_vacuum_insert_threshold = 500000,
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_freeze_min_age = 0
);

-- Events that no retry can fold, whole, with the reason. Kept until someone decides.
create table consumer_parked (
  consumer_group text not null,
  event_id uuid not null,
  event_type text,
  topic text not null,
  partition int not null,
  "offset" bigint not null,
  key bytea,
  value bytea,
  -- [[name, value], …] as in the record, repeated names too. A value that is not text is {"hex": "…"}.
  headers jsonb not null default '[]',
  recorded_at timestamptz,
  error text not null,
  parked_at timestamptz not null default now(),
  primary key (consumer_group, event_id)
);
-- Few rows: the defaults of autovacuum do.

-- Likes, views and sales per product: the built-in projection.
create table product_metrics (
  product_id bigint primary key,
  like_count bigint not null default 0,
  view_count bigint not null default 0,
  sales_count bigint not null default 0,
  total_sales_amount numeric not null default 0,
  last_event_at timestamptz,
  updated_at timestamptz not null default now()
) with (
  -- Popular products are updated with every batch: room on the page keeps that HOT, and the dead rows of a page are
  -- reused without a vacuum. The vacuum comes early for what pruning leaves.
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0.05,
  autovacuum_vacuum_threshold = 1000
);
