-- Records the batch in flight, moves low_id, and renews the lease on the way.
-- $1 smallint: shard. $2 uuid: owner. $3 bigint: epoch. $4 bigint: batch number. $5 bigint[]: ids, null for none.
-- $6 bigint: low_id. $7 float8: lease in seconds. $8 boolean: the number goes to Kafka in the transaction of the batch. $9 bigint: done_id.
-- $10 bigint[]: ahead_ids.
-- No row: another instance owns the shard.
update outbox_shards
set batch_seq = $4, batch_ids = $5, low_id = $6, lease_until = clock_timestamp() + make_interval(secs => $7), marked = $8,
  done_id = $9, ahead_ids = $10
where shard = $1 and owner = $2 and epoch = $3
