-- Which of these keys are held. $1 smallint: shard. $2 text[]: keys.
-- Returns the key and released_to: up to which id its events may go, null for none of them. Changes nothing.
select partition_key, released_to from outbox_held_keys
where shard = $1 and partition_key is not null and md5(partition_key) in (select md5(k) from unnest($2::text[]) as k)
