-- Holds keys. $1 smallint: shard. $2 bigint[]: the first event that waits or failed. In the same order: $3 text[]: its
-- key, null for none. $4 text[]: why, as the constraint of the table has it. $5 float8[]: seconds until the release,
-- null for "until somebody releases it". $6 text[]: the topic that it waits for, or null. $7 text[]: what is wrong with
-- it in words, or null. A key is its MD5 here, as everywhere in this table: two keys that have the same one wait for
-- the same event, the first of both. A key that an earlier event holds stays as it is, so running it twice changes
-- nothing; one that is just being released is held again from here on. Where a later event holds the key, because this
-- one was committed late, this one holds it from now on; a later event that had failed waits behind it, to be tried
-- again in its turn, since a key has no second holder.
with given as (
  select distinct on (md5(u.key), case when u.key is null then u.id end)
    u.id, u.key, u.reason, now() + make_interval(secs => u.release_in) as release_at, u.topic, u.detail
  from unnest($2::bigint[], $3::text[], $4::text[], $5::float8[], $6::text[], $7::text[])
    as u(id, key, reason, release_in, topic, detail)
  order by md5(u.key), case when u.key is null then u.id end, u.id
),
former_holders as (
  update outbox_events e set status = 'HELD'
  from given g
  join outbox_held_keys h on h.shard = $1 and h.partition_key is not null and md5(h.partition_key) = md5(g.key)
  where h.first_id > g.id and e.id = h.first_id and e.status = 'FAILED'
)
insert into outbox_held_keys as h (first_id, shard, partition_key, reason, release_at, topic, detail)
select id, $1, key, reason, release_at, topic, detail from given
on conflict (shard, md5(partition_key)) where partition_key is not null do update
set first_id = excluded.first_id, reason = excluded.reason, held_at = excluded.held_at, release_at = excluded.release_at,
  topic = excluded.topic, detail = excluded.detail, released_to = null
where h.released_to is not null or excluded.first_id < h.first_id
