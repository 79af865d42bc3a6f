-- The topics that keys of these shards wait for: for a grant, for one of its partitions, or to be made. $1 smallint[]:
-- shards.
select distinct topic from outbox_held_keys
where reason in ('denied', 'partition', 'no-topic') and topic is not null and shard = any($1) and released_to is null and release_at > now()
