-- An event that waits may have come from any shard, so each claim begins where the lowest began.
update outbox_shards set low_id = (select min(low_id) from outbox_shards)
