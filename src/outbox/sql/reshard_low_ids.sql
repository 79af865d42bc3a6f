-- An event that waits may have come from any shard, so each claim begins where the lowest began. What is below done_id
-- is listed in outbox_again.
update outbox_shards set low_id = greatest((select min(low_id) from outbox_shards), done_id + 1)
