-- Renews the leases of an instance, and waits for nobody. $1 uuid: instance. $2 smallint[]: shards. $3 bigint[]: their
-- epochs, in the same order. $4 float8: lease in seconds. Returns the shards that are still ours, and whether each was
-- renewed: not if somebody has its row locked. While our own lane has it locked nobody can take the shard, and the lane
-- renews the lease itself; anybody else's lock must not cost the leases of other shards. A shard that is missing
-- belongs to another instance now. The array is read before the update begins, so the rows that it updates are locked
-- by then. No join with the arrays or with locked rows: after waiting for a row PostgreSQL 18.0 and 18.1 lose other
-- rows of such a join (seen with unnest), which would look like lost leases.
with renewed as (
  update outbox_shards
  set lease_until = clock_timestamp() + make_interval(secs => $4)
  where owner = $1 and epoch = ($3::bigint[])[array_position($2, shard)] and shard = any(array(
    select shard from outbox_shards
    where owner = $1 and shard = any($2) and epoch = ($3::bigint[])[array_position($2, shard)]
    for no key update skip locked
  ))
  returning shard
)
select shard, shard in (select shard from renewed) as renewed
from outbox_shards
where owner = $1 and shard = any($2) and epoch = ($3::bigint[])[array_position($2, shard)]
