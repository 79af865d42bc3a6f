-- Number of shards of the installed outbox.
select outbox_shard_count()
