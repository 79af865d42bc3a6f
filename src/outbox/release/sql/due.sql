-- Releases a portion of the keys of a shard whose time has come: their lowest events are PENDING again, in their old
-- order, since order is by id. $1 smallint: shard. $2 bigint: most keys in one go. $3 bigint: most events in one go, of
-- all keys together. A key starts with its first event alone, because that is the one that failed: if it fails again,
-- nothing else of the key has been moved to and fro. A key with more events than its share stays here, with
-- released_to, and goes on in the next step; so a million events behind a key do not keep the other keys of the shard
-- waiting. Runs under the fence, so no claim of this shard can see half of it; low_id goes back to the lowest released
-- event; events up to done_id are listed in outbox_again. Returns low_id, the number of released events, and how many
-- were to be released and are not: a trigger may skip an update.
with due as (
  select first_id, partition_key,
    case when released_to is null then 1 else greatest($3 / count(*) over (), 1) end as share
  from (
    select * from outbox_held_keys where shard = $1 and release_at <= now() order by release_at limit $2
  ) d
),
waiting as (
  select d.first_id, d.share, w.id, row_number() over (partition by d.first_id order by w.id) as place
  from due d
  cross join lateral (
    -- One more than its share: is there anything left?
    select e.id from outbox_events e
    where d.partition_key is not null and e.status = 'HELD' and e.shard = $1
      and md5(outbox_key_of(e.partition_key, e.aggregate_id)) = md5(d.partition_key)
    order by e.id limit d.share + 1
  ) w
  union all
  select d.first_id, d.share, e.id, 1 from due d
  -- One that has been given a key since may be in another shard, whose owner finds it (sweep_held.sql).
  join outbox_events e on e.id = d.first_id and e.status = 'HELD' and e.shard = $1
  where d.partition_key is null
),
released as (
  update outbox_events e set status = 'PENDING' from waiting w where e.id = w.id and w.place <= w.share
  returning e.id, e.status
),
again as (
  insert into outbox_again (id, shard)
  select r.id, $1 from released r where r.id <= (select done_id from outbox_shards where shard = $1)
  on conflict do nothing
),
unfinished as (
  update outbox_held_keys h
  set released_to = (select max(w.id) from waiting w where w.first_id = h.first_id and w.place <= w.share)
  where h.first_id in (select w.first_id from waiting w where w.place > w.share)
),
finished as (
  delete from outbox_held_keys h using due d
  where h.first_id = d.first_id
    and not exists (select 1 from waiting w where w.first_id = d.first_id and w.place > w.share)
)
update outbox_shards s set low_id = greatest(least(s.low_id, (select min(id) from released)), least(s.done_id, 9223372036854775806) + 1)
where s.shard = $1
returning s.low_id, (select count(*) from released) as released,
  (select count(*) from waiting w where w.place <= w.share) - (select count(*) from released r where r.status = 'PENDING') as unchanged
