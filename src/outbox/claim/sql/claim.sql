-- Reads the next events of shards, lowest id first. $1 bigint: most bytes of one row. $2 bigint: most bytes of all
-- rows; the last row may exceed it. $3 int: rows up to this size are not counted. $4 smallint[]: shards. $5 bigint[]:
-- their low_id, where to begin, in the same order. $6 bigint[]: the highest ids to claim, in the same order. $7
-- bigint: most rows of each. Returns the events of a shard in id order. `takes` is null for an event that is returned
-- whole. It is the size of a row that has more than $1 bytes, of which only the key and the beginning of the names are
-- returned, and whose payload may not even have been printed. It is -1 for rows behind the one that filled $2: they
-- cost nothing to print or to send, and the caller stops reading at the first of them. `busy`: another transaction has
-- locked or changed the row, so it cannot be settled now. No row is locked otherwise: nobody else claims from a shard
-- whose row in outbox_shards is locked, as fence.sql does, and a lock would be gone long before the event is
-- published. Transactions that refer to the row by a foreign key do not make it busy. Changes nothing but a setting of
-- this transaction. The subqueries are levels that the planner does not merge: a payload is printed once, in the
-- first, and measured and sent as it is. With `shard = s.from_shard` the planner takes the primary key for the order
-- of ids and reads the rows of all shards, published ones included. The order of (shard, id) only the index of the
-- PENDING rows has.
select {columns},
  case
    when touched then (
      select true from outbox_events l where l.id = counted.id and l.status || '' = 'PENDING' for no key update skip locked
    ) is null
    else false
  end as busy
from (
  select * from unnest($4::smallint[], $5::bigint[], $6::bigint[]) as u(from_shard, low_id, ceiling)
  where (select set_config('outbox_relay.claimed', '0', true)) <> '' offset 0
) s
cross join lateral (
  select *,
    {takes} as takes
  from (
    select *,
      {printed}
    from outbox_claimable c
    where (c.shard, c.id) >= (s.from_shard, s.low_id) and c.shard <= s.from_shard and c.status = 'PENDING' and c.id <= s.ceiling
    order by c.shard, c.id limit $7
  ) printed
  offset 0
) counted
