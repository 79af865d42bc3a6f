-- The outbox: what applications write (outbox_events) and how the relay shares the work (the other tables).
-- A released migration is never edited: later changes are new files.

-- Shards that keys are spread over. `migrate up` replaces this function while the table is still empty, if the settings
-- ask for another number; afterwards it is fixed, because a key must not be in two shards at once.
create function outbox_shard_count() returns int
  language sql immutable parallel safe
  return 8;

-- The key of a record, by which order is kept. A key too long to be sent is replaced by its digest, so that such an event
-- can still be told from others, held and shown.
create function outbox_key_of(partition_key text, aggregate_id text) returns text
  language sql immutable parallel safe
  return case
    when octet_length(coalesce(partition_key, aggregate_id)) > 32768 then 'md5:' || md5(coalesce(partition_key, aggregate_id))
    else coalesce(partition_key, aggregate_id)
  end;

-- The shard of an event: 31 bits of the key's md5. Our own function, since hashtext() may change with a major version of
-- PostgreSQL, which would move keys between shards. Events without a key are spread by id.
create function outbox_shard_of(key text, id bigint) returns smallint
  language sql immutable parallel safe
  return (case
    when key is null then id % outbox_shard_count()
    else (('x' || left(md5(key), 8))::bit(32)::bigint & 2147483647) % outbox_shard_count()
  end)::smallint;

create table outbox_events (
  -- `always` and cache 1: an id is drawn by the transaction that inserts the row, after it has locked the table. The lock
  -- barrier, which tells when no lower id can appear any more, rests on that.
  id bigint generated always as identity (cache 1) primary key,
  event_id uuid not null default gen_random_uuid(),
  aggregate_type text,
  aggregate_id text,
  event_type text not null,
  event_version int not null default 1,
  topic text,
  partition_key text,
  payload jsonb,
  payload_raw bytea,
  headers jsonb,
  correlation_id text,
  causation_id text,
  source text,
  traceparent text,
  status text not null default 'PENDING',
  retry_count int not null default 0,
  available_at timestamptz,
  last_error text,
  created_at timestamptz not null default now(),
  published_at timestamptz,
  published_partition int,
  published_offset bigint,
  shard smallint not null generated always as (outbox_shard_of(outbox_key_of(partition_key, aggregate_id), id)) stored,
  constraint outbox_events_status check (status in ('PENDING', 'PUBLISHED', 'FAILED', 'HELD', 'DISCARDED')),
  constraint outbox_events_published check (status <> 'PUBLISHED' or published_at is not null),
  constraint outbox_events_failed check (status <> 'FAILED' or last_error is not null),
  constraint outbox_events_retry_count check (retry_count >= 0),
  constraint outbox_events_one_payload check (payload is null or payload_raw is null)
) with (
  -- A queue table: what matters is the number of dead rows, not their share of a table that grows with history.
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
  autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02,
  autovacuum_vacuum_cost_delay = 0
);

comment on table outbox_events is 'Transactional outbox: insert a row in the transaction of the business change; outbox-relay publishes it to Kafka.';

-- The claim reads this index from low_id on. A row leaves it when it is published, failed or held.
create index outbox_events_pending on outbox_events (shard, id) where status = 'PENDING';
-- Held rows of one key, in order, for their release.
create index outbox_events_held on outbox_events (shard, md5(outbox_key_of(partition_key, aggregate_id)), id) where status = 'HELD';
create index outbox_events_failed on outbox_events (id) where status = 'FAILED';

-- One row per shard: who owns it, since which epoch, until when; and the batch in flight.
-- Every write of an owner is conditional on (owner, epoch), so a former owner that wakes up changes nothing.
create table outbox_shards (
  shard smallint primary key,
  owner uuid,
  epoch bigint not null default 0,
  lease_until timestamptz,
  -- No PENDING row of the shard has a lower id: where the claim begins to read.
  low_id bigint not null default 0,
  -- Number and ids of the batch in flight; null when there is none. It is what a successor sends again first.
  batch_seq bigint not null default 0,
  batch_ids bigint[],
  constraint outbox_shards_lease check ((owner is null) = (lease_until is null))
) with (
  -- One update per batch: room for the new version on the same page keeps it HOT.
  fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500
);
-- Thousands of ids do not fit a page; compressing them costs more than it saves.
alter table outbox_shards alter column batch_ids set storage external;
insert into outbox_shards (shard) select generate_series(0, outbox_shard_count() - 1);

-- Instances that live, by their heartbeat. Shards are shared evenly among them.
create table outbox_instances (
  instance uuid primary key,
  name text not null,
  version text not null,
  started_at timestamptz not null default clock_timestamp(),
  heartbeat_at timestamptz not null default clock_timestamp()
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Keys whose events wait: behind a failed event, or until a delayed event is due. An event without a key holds nobody;
-- a delayed one stands here by its id alone.
create table outbox_held_keys (
  first_id bigint primary key,
  shard smallint not null,
  partition_key text,
  reason text not null,
  held_at timestamptz not null default now(),
  -- Null: until somebody releases it.
  release_at timestamptz,
  constraint outbox_held_keys_reason check (reason in ('failed', 'delayed'))
);
create unique index outbox_held_keys_key on outbox_held_keys (shard, md5(partition_key)) where partition_key is not null;
create index outbox_held_keys_due on outbox_held_keys (shard, release_at) where release_at is not null;

-- What people did by hand.
create table outbox_audit (
  id bigint generated always as identity primary key,
  at timestamptz not null default now(),
  actor text not null,
  action text not null,
  details jsonb not null default '{}'
);

-- What a lane reads of a row, with its size in memory as `bytes`. jsonb has no cheap length: the stored size is exact when
-- the value is not compressed, and only a compressed one is printed to be measured.
-- With the rights of who asks, not of who made it.
create view outbox_claimable with (security_invoker = true) as
select id, shard, status, event_id, aggregate_type, aggregate_id, event_type, event_version, topic,
  outbox_key_of(partition_key, aggregate_id) as key,
  octet_length(coalesce(partition_key, aggregate_id)) as key_bytes,
  payload, payload_raw, headers, correlation_id, causation_id, source, traceparent,
  -- Kafka knows no time before 1970, and neither it nor arithmetic knows infinity.
  least(greatest(created_at, timestamptz '1970-01-01 00:00:00Z'), timestamptz '9999-12-01 00:00:00Z') as created_at,
  case when available_at > now()
    then extract(epoch from least(available_at, now() + interval '100 years') - now())::float8
  end as due_in,
  (case
    when payload is null then coalesce(octet_length(payload_raw), 0)
    when pg_column_compression(payload) is null then pg_column_size(payload)
    else octet_length(payload::text)
  end
  + coalesce(pg_column_size(headers), 0) + coalesce(octet_length(aggregate_id), 0) + coalesce(octet_length(partition_key), 0)
  + octet_length(event_type) + coalesce(octet_length(aggregate_type), 0) + coalesce(octet_length(topic), 0)
  + coalesce(octet_length(correlation_id), 0) + coalesce(octet_length(causation_id), 0)
  + coalesce(octet_length(source), 0) + coalesce(octet_length(traceparent), 0))::bigint as bytes
from outbox_events;
