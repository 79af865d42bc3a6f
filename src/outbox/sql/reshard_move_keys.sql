-- Puts held keys where their events are.
update outbox_held_keys set shard = outbox_shard_of(partition_key, first_id) where shard <> outbox_shard_of(partition_key, first_id)
