-- What a release of single events leaves of the held keys. $1 smallint: shard. $2 bigint[]: first events of keys of
-- which nothing waits any more. $3 bigint[]: first events of keys with more events than their share, and $4 bigint[]:
-- up to which id they may go. $5 bigint[]: first events of keys that stop at an event which could not be released, $6
-- bigint[]: that event, and $7 float8[]: seconds until the next attempt, null for none. $8 bigint[]: the events that
-- were released. The rest is as in due.sql; returns low_id.
with finished as (
  delete from outbox_held_keys where first_id = any($2)
),
unfinished as (
  update outbox_held_keys h set released_to = u.released_to
  from unnest($3::bigint[], $4::bigint[]) as u(first_id, released_to)
  where h.first_id = u.first_id
),
stopped as (
  update outbox_held_keys h
  set first_id = u.at_id, released_to = u.at_id - 1, reason = case when u.again_in is null then 'failed' else h.reason end,
    release_at = now() + make_interval(secs => u.again_in), topic = null
  from unnest($5::bigint[], $6::bigint[], $7::float8[]) as u(first_id, at_id, again_in)
  where h.first_id = u.first_id
),
again as (
  insert into outbox_again (id, shard)
  select r.id, $1 from unnest($8::bigint[]) as r(id) where r.id <= (select done_id from outbox_shards where shard = $1)
  on conflict do nothing
)
update outbox_shards s
set low_id = greatest(least(s.low_id, (select min(id) from unnest($8::bigint[]) as r(id))), least(s.done_id, 9223372036854775806) + 1)
where s.shard = $1
returning s.low_id
