-- The same for the rows of shards, which every batch writes to.
explain (costs off) update outbox_shards set batch_seq = 0 where shard = -1
