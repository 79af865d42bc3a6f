-- Which of these keys are held. $1 smallint: shard. $2 text[]: keys.
-- Returns the key, up to which id its events may go: those before the event that holds it, and what is being released. Changes nothing.
select partition_key, greatest(first_id - 1, released_to) from outbox_held_keys
where shard = $1 and partition_key is not null and md5(partition_key) in (select md5(k) from unnest($2::text[]) as k)
