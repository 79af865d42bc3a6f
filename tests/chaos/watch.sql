-- What the database of a chaos run records by itself, so that the checker need not believe any process.

-- Keys of the locked profile: a writer holds the row of a key while it inserts events of it.
create table chaos_keys (key text primary key, written bigint not null default 0);

-- Every taking of a shard, with the batch that was in flight: what the new owner may have to send again, and nothing
-- else. Two owners of one epoch would be two rows.
create table chaos_owners (
  shard smallint not null,
  epoch bigint not null,
  owner uuid not null,
  in_flight bigint[],
  name text not null default session_user,
  at timestamptz not null default clock_timestamp()
);
create index on chaos_owners (shard, epoch);

create function chaos_note_owner() returns trigger language plpgsql as $$
begin
  if new.owner is not null and (old.owner, old.epoch) is distinct from (new.owner, new.epoch) then
    insert into chaos_owners (shard, epoch, owner, in_flight) values (new.shard, new.epoch, new.owner, old.batch_ids);
  end if;
  return null;
end
$$;
create trigger chaos_note_owner after update on outbox_shards for each row execute function chaos_note_owner();

-- Rows whose state was changed by a process that did not own their shard at that moment. Every process has a role of
-- its own, so the session tells which one it is. plpgsql: each statement of the function sees what is committed by
-- then.
create table chaos_strays (
  id bigint not null,
  status text not null,
  name text not null default session_user,
  at timestamptz not null default clock_timestamp()
);

create function chaos_note_strays() returns trigger language plpgsql as $$
begin
  insert into chaos_strays (id, status)
  select changed.id, changed.status
  from changed
  where changed.shard not in (
    select owners.shard
    from outbox_shards shards
    join chaos_owners owners on (owners.shard, owners.epoch, owners.owner) = (shards.shard, shards.epoch, shards.owner)
    where owners.name = session_user
  );
  return null;
end
$$;
create trigger chaos_note_strays after update on outbox_events
  referencing new table as changed for each statement execute function chaos_note_strays();

-- When a watermark passed an id, for rows that are not marked.
create table chaos_passed (shard smallint not null, done_id bigint not null, at timestamptz not null default clock_timestamp());
create index on chaos_passed (shard, done_id);

create function chaos_note_passed() returns trigger language plpgsql as $$
begin
  if new.done_id < old.done_id then
    raise exception 'the watermark of shard % falls from % to %', new.shard, old.done_id, new.done_id;
  end if;
  insert into chaos_passed (shard, done_id) values (new.shard, new.done_id);
  return null;
end
$$;
create trigger chaos_note_passed after update on outbox_shards for each row when (new.done_id <> old.done_id)
  execute function chaos_note_passed();

-- Rows that the cleaner has deleted, as they were: they were committed, so the judge still wants them in Kafka.
create table chaos_removed (like outbox_events);
alter table chaos_removed add column removed_at timestamptz not null default clock_timestamp();

create function chaos_keep_removed() returns trigger language plpgsql as $$
begin
  insert into chaos_removed select * from removed;
  update chaos_removed r set status = 'PUBLISHED',
    published_at = (select at from chaos_passed p where p.shard = r.shard and p.done_id >= r.id order by p.done_id limit 1)
  from outbox_shards s
  where r.status = 'PENDING' and r.id in (select id from removed) and s.shard = r.shard and r.id <= s.done_id
    and not exists (select 1 from outbox_again a where a.id = r.id) and r.id <> all(coalesce(s.batch_ids, '{}'));
  return null;
end
$$;
create trigger chaos_keep_removed after delete on outbox_events
  referencing old table as removed for each statement execute function chaos_keep_removed();

-- Rows of strangers have no partition key, or an aggregate type of their own.
create function chaos_is_judged(partition_key text, aggregate_type text) returns boolean language sql immutable
  return partition_key is not null and aggregate_type is distinct from 'Hostile';

create view chaos_committed as
select id, event_id, aggregate_type, aggregate_id, event_type, topic, partition_key, payload, status, retry_count, shard from outbox_current
where chaos_is_judged(partition_key, aggregate_type)
union all
select id, event_id, aggregate_type, aggregate_id, event_type, topic, partition_key, payload, status, retry_count, shard from chaos_removed
where chaos_is_judged(partition_key, aggregate_type);
