-- Exactly-once delivery: whether Kafka can tell what became of a shard's last batch, and whose outbox this is.

-- The number of the last batch is committed to Kafka in the transaction of its records. At-least-once delivery writes no such
-- marker, so a relay that finds `false` knows that Kafka's answer, if there is one, is about an older batch.
alter table outbox_shards add column marked boolean not null default false;

-- One random name for this outbox. Markers in Kafka carry it, so that two outboxes that were given the same deployment name
-- find out instead of believing each other's markers.
create table outbox_installation (
  id uuid not null default gen_random_uuid(),
  only_row boolean primary key default true,
  constraint outbox_installation_only_row check (only_row)
);
insert into outbox_installation default values;

-- The key of the advisory lock that an instance holds in its session for as long as it lives: 31 bits of its name's md5.
create function outbox_session_key(instance uuid) returns int
  language sql immutable parallel safe
  return ('x' || left(md5(instance::text), 8))::bit(32)::int & 2147483647;

-- The instance holds its advisory lock, so that others may take the lack of it for its death.
alter table outbox_instances add column session_lock boolean not null default false;
