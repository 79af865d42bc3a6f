-- Renews the leases of an instance. $1 uuid: instance. $2 smallint[]: shards. $3 bigint[]: their epochs, in the same order.
-- $4 float8: lease in seconds.
-- Returns the shards that were renewed; one that is missing belongs to another instance now.
-- No join with the arrays: lanes update the same rows, and after waiting for one of them PostgreSQL 18.0 and 18.1 lose other rows of such a
-- join (seen with unnest), which would look like leases that were lost.
update outbox_shards
set lease_until = clock_timestamp() + make_interval(secs => $4)
where owner = $1 and shard = any($2) and epoch = ($3::bigint[])[array_position($2, shard)]
returning shard
