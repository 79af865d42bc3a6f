-- Which of these keys are held. $1 smallint: shard. $2 text[]: keys.
select partition_key from outbox_held_keys
where shard = $1 and partition_key is not null and md5(partition_key) in (select md5(k) from unnest($2::text[]) as k)
