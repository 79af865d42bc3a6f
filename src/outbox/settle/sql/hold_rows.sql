-- Holds the keys of events that cannot be read. $1 bigint[]: the events that failed; each has a key. Of a key that
-- occurs twice the first one holds it. A key that an earlier event holds stays as it is, as in hold_keys.sql, so
-- running it twice changes nothing. $2 text[]: why, in the same order. $3 float8[]: seconds until the release, or null.
with given as (
  select distinct on (e.shard, md5(outbox_key_of(e.partition_key, e.aggregate_id)))
    e.id, e.shard, outbox_key_of(e.partition_key, e.aggregate_id) as key, u.reason,
    now() + make_interval(secs => u.release_in) as release_at
  from unnest($1::bigint[], $2::text[], $3::float8[]) as u(id, reason, release_in)
  join outbox_events e on e.id = u.id
  where outbox_key_of(e.partition_key, e.aggregate_id) is not null
  order by e.shard, md5(outbox_key_of(e.partition_key, e.aggregate_id)), e.id
),
former_holders as (
  update outbox_events e set status = 'HELD'
  from given g
  join outbox_held_keys h on h.shard = g.shard and h.partition_key is not null and md5(h.partition_key) = md5(g.key)
  where h.first_id > g.id and e.id = h.first_id and e.status = 'FAILED'
)
insert into outbox_held_keys as h (first_id, shard, partition_key, reason, release_at)
select id, shard, key, reason, release_at from given
on conflict (shard, md5(partition_key)) where partition_key is not null do update
set first_id = excluded.first_id, reason = excluded.reason, held_at = excluded.held_at, release_at = excluded.release_at,
  topic = null, detail = null, released_to = null
where h.released_to is not null or excluded.first_id < h.first_id
