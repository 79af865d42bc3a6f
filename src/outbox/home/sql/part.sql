-- Makes a copy independent of its original: nobody owns its shards, nothing is in flight, and no marker is known. Runs
-- with every shard locked.
update outbox_shards
set owner = null, lease_until = null, epoch = epoch + 1, batch_ids = null, marked = false, batch_tag = null
