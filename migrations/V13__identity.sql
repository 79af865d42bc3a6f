-- Two histories that began as one: a copy of the database must not take the batches of the original for its own.

-- Names the last batch that was claimed for exactly-once delivery: its number in the upper half, a random number in the lower one. The marker
-- in Kafka carries it, so two databases that were copied from each other never agree about a batch that either has claimed since.
-- A batch with another number, or none, was claimed by an older version or in at-least-once delivery.
alter table outbox_shards add column batch_tag uuid;

-- Where the outbox lives: the server by its system identifier (null where PostgreSQL does not tell it) and the database in it by its oid. Noted
-- by the first relay that runs. A standby that takes over has the same; a copy, a restored dump and an upgraded server do not.
alter table outbox_installation
  add column home_system text,
  add column home_database bigint;

-- A waiting event whose key is changed by the application may belong to another shard, which has passed its id already. It waits again there:
-- a claim begins with what outbox_again lists. Where published rows are not marked, one that is published is marked now, since the watermark of
-- its new shard knows nothing of it. With the rights of its owner: who may change a key need not see the relay's tables.
create function outbox_event_moved() returns trigger
  language plpgsql security definer
as $$
declare
  -- In flight it is the business of the shard that has it there.
  in_flight constant boolean := exists (
    select 1 from outbox_shards s where s.shard = old.shard and new.id = any(s.batch_ids));
  published constant boolean := old.status = 'PENDING'
    and not exists (select 1 from outbox_again a where a.id = new.id)
    and exists (select 1 from outbox_shards s where s.shard = old.shard and (new.id <= s.done_id or new.id = any(s.ahead_ids)));
begin
  if in_flight then
    return null;
  elsif published then
    update outbox_events set status = 'PUBLISHED', published_at = now() where id = new.id;
  else
    insert into outbox_again (id, shard) values (new.id, new.shard) on conflict (id) do update set shard = excluded.shard;
  end if;
  return null;
end $$;
-- In the schema of the outbox alone, whatever the session that changes a key has for a path.
do $$ begin execute format('alter function outbox_event_moved() set search_path = %I, pg_temp', current_schema()); end $$;
revoke all on function outbox_event_moved() from public;

-- `shards set` moves events itself, and says so in its session.
create trigger outbox_event_moved after update of partition_key, aggregate_id on outbox_events
  for each row when (new.status = 'PENDING' and new.shard <> old.shard and current_setting('outbox_relay.resharding', true) is distinct from 'on')
  execute function outbox_event_moved();
