-- Another number of shards while the outbox is in use; keys that wait for a grant.

-- The number that `shards set` is about to give the outbox; null when it is not at work. Instances that see it give their shards up.
alter table outbox_installation add column resharding_to int;

-- What shards were at when they were taken away. Kafka keeps their markers, so a shard that comes back goes on from its number.
create table outbox_retired_shards (
  shard smallint primary key,
  epoch bigint not null,
  batch_seq bigint not null,
  marked boolean not null
);

-- A key may also wait for a topic that Kafka does not let the relay write to.
alter table outbox_held_keys
  drop constraint outbox_held_keys_reason,
  add constraint outbox_held_keys_reason check (reason in ('failed', 'retry', 'delayed', 'paused', 'no-topic', 'denied'));
