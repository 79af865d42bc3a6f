-- An event that waits may have come from any shard, so each claim begins where the lowest began. What is below done_id
-- is listed in outbox_again.
update outbox_shards set low_id = greatest((select min(low_id) from outbox_shards), least(done_id, 9223372036854775806) + 1)
