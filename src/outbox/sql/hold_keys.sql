-- Holds keys. $1 smallint: shard. $2 bigint[]: the first event that waits or failed. $3 text[]: its key, null for none.
-- $4 text[]: 'failed' or 'delayed'. $5 float8[]: seconds until the release, null for "until somebody releases it".
-- A key that is held already stays as it is, so running it twice changes nothing.
insert into outbox_held_keys (first_id, shard, partition_key, reason, release_at)
select u.id, $1, u.key, u.reason, now() + make_interval(secs => u.release_in)
from unnest($2::bigint[], $3::text[], $4::text[], $5::float8[]) as u(id, key, reason, release_in)
on conflict do nothing
