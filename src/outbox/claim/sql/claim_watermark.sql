-- Reads the next events of shards whose progress is a watermark: what claim.sql reads, but for what is published.
-- Published rows are not written to, so it does not matter who has locked them. $1 bigint: most bytes of one row. $2
-- bigint: most bytes of all rows. $3 int: rows up to this size are not counted. $4 smallint[]: shards. $5 bigint[]:
-- their low_id, above done_id, in the same order. $6 bigint[]: the highest ids to claim, in the same order. $7 bigint:
-- most rows of each. $8 bigint[]: published rows of all these shards that are still PENDING. $9 bigint: the last one
-- of these. Returns what claim.sql returns. Changes nothing but a setting of this transaction. `not in` over an
-- uncorrelated subquery is a hash table, and rows behind the last published one do not look into it.
select {columns},
  false as busy
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
      and (c.id > $9 or c.id not in (select unnest($8::bigint[])))
    order by c.shard, c.id limit $7
  ) printed
  offset 0
) counted
