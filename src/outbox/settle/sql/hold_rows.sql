-- Holds the keys of events that cannot be read. $1 bigint[]: the events that failed; each has a key. Of a key that
-- occurs twice the first one holds it. A key that is held already stays as it is, as in hold_keys.sql; so running it
-- twice changes nothing. $2 text[]: why, in the same order. $3 float8[]: seconds until the release, or null.
insert into outbox_held_keys as h (first_id, shard, partition_key, reason, release_at)
select distinct on (e.shard, md5(outbox_key_of(e.partition_key, e.aggregate_id)))
  e.id, e.shard, outbox_key_of(e.partition_key, e.aggregate_id), u.reason, now() + make_interval(secs => u.release_in)
from unnest($1::bigint[], $2::text[], $3::float8[]) as u(id, reason, release_in)
join outbox_events e on e.id = u.id
where outbox_key_of(e.partition_key, e.aggregate_id) is not null
order by e.shard, md5(outbox_key_of(e.partition_key, e.aggregate_id)), e.id
on conflict (shard, md5(partition_key)) where partition_key is not null do update
set first_id = excluded.first_id, reason = excluded.reason, held_at = excluded.held_at, release_at = excluded.release_at,
  topic = null, detail = null, released_to = null
where h.released_to is not null
