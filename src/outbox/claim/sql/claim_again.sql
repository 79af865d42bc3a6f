-- The ids of the next events of a shard that wait again although done_id has passed them, for claim_manifest.sql. $1
-- smallint: shard. $2 bigint: most rows. $3 bigint: the highest id. $4 bigint: low_id; from there on they are met by
-- the claim of what waits, in the order of all ids. Returns them in order. Changes nothing.
select a.id
from (select id from outbox_again where shard = $1 and id <= $3 and id < $4 order by id limit $2) a
join outbox_events e on e.id = a.id and e.status || '' = 'PENDING'
order by a.id
