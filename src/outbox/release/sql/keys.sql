-- The held keys of a shard whose time has come. $1 smallint: shard. $2 bigint: most of them. Returns the first event,
-- the digest of the key (null for an event without one), and whether the key is being released already. Changes
-- nothing.
select first_id, md5(partition_key) as key_md5, released_to is not null as started
from outbox_held_keys
where shard = $1 and release_at <= now()
order by release_at limit $2
