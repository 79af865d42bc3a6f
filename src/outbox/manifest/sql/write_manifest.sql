-- Records the batches in flight of shards that this transaction has locked, moves low_id, and renews the leases on the
-- way. $1 uuid: owner. $2 float8: lease in seconds. $3 smallint[]: shards; and for each of them, in the same order: $4
-- bigint[]: epochs. $5 bigint[]: batch numbers. $6 bigint[]: low_id. $7 boolean[]: the number goes to Kafka in the
-- transaction of the batch. $8 bigint[]: done_id. $9 int[]: where the ids of its batch end in $11. $10 int[]: where its
-- ahead_ids end in $12. $11 bigint[]: the ids of all batches, shard by shard; a shard without any has no batch. $12
-- bigint[]: the ahead_ids of all. $13 uuid[]: the tag of its batch; null: the one that is there stays. A row that is
-- missing belongs to another instance. (The rows are locked by this transaction, so the join loses none; see
-- renew_leases.sql.)
update outbox_shards s
set batch_seq = u.seq, low_id = u.low_id, lease_until = clock_timestamp() + make_interval(secs => $2), marked = u.marked, done_id = u.done_id,
  batch_ids = case when u.ids_from <= u.ids_to then ($11::bigint[])[u.ids_from:u.ids_to] end,
  ahead_ids = ($12::bigint[])[u.ahead_from:u.ahead_to], batch_tag = coalesce(u.tag, s.batch_tag)
from (
  select shard, epoch, seq, low_id, marked, done_id, tag, ids_to, lag(ids_to, 1, 0) over (order by n) + 1 as ids_from,
    ahead_to, lag(ahead_to, 1, 0) over (order by n) + 1 as ahead_from
  from unnest($3::smallint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::boolean[], $8::bigint[], $9::int[], $10::int[],
      $13::uuid[])
    with ordinality as a(shard, epoch, seq, low_id, marked, done_id, ids_to, ahead_to, tag, n)
) u
where s.shard = u.shard and s.owner = $1 and s.epoch = u.epoch
