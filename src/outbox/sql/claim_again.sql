-- The ids of the next events of a shard that wait again although done_id has passed them, for claim_manifest.sql. $1 smallint: shard.
-- $2 bigint: most rows. $3 bigint: most bytes of all rows; the first row always fits. $4 bigint: most bytes of one row, as in claim.sql.
-- $5 bigint: the highest id. $6 bigint: low_id; from there on they are met by the claim of what waits, in the order of all ids.
-- Returns them in order. Changes nothing.
select id from (
  select c.id, least(c.bytes, $4) as bytes, sum(least(c.bytes, $4)::int) over (order by c.id rows unbounded preceding) as bytes_upto
  from (select id from outbox_again where shard = $1 and id <= $5 and id < $6 order by id limit $2) a
  join outbox_claimable c on c.id = a.id and c.status || '' = 'PENDING'
) measured
where bytes_upto - bytes < $3
order by id
