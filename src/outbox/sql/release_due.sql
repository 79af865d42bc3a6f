-- Releases the keys of a shard whose time has come: their events are PENDING again, in their old order, since order is by id.
-- $1 smallint: shard. $2 bigint: most keys in one go.
-- Runs under the fence, so no claim of this shard can see half of it; low_id goes back to the lowest released event.
with due as (
  delete from outbox_held_keys
  where first_id in (select first_id from outbox_held_keys where shard = $1 and release_at <= now() order by release_at limit $2)
  returning first_id, partition_key
),
released as (
  update outbox_events e set status = 'PENDING'
  from due d
  where e.status = 'HELD' and e.shard = $1
    and (e.id = d.first_id
      or (d.partition_key is not null
        and md5(outbox_key_of(e.partition_key, e.aggregate_id)) = md5(d.partition_key)))
  returning e.id
)
update outbox_shards s set low_id = least(s.low_id, (select min(id) from released))
where s.shard = $1
returning s.low_id, (select count(*) from released) as released
