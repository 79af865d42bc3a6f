-- Lets a shard go on after its histories disagreed: nothing is in flight, and the next owner writes a new marker. $1
-- smallint: shard. $2 bigint: the marker in Kafka, or 0. $3 bigint: the number of the last batch when it was looked at.
-- No row: an instance owns the shard, or something has changed since.
update outbox_shards
set batch_ids = null, marked = false, batch_tag = null, batch_seq = greatest(batch_seq, $2)
where shard = $1 and batch_seq = $3 and (owner is null or lease_until < clock_timestamp())
