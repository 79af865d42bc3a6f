-- The ids of the next events of a shard that wait again although done_id has passed them, for claim_manifest.sql.
-- $1 smallint: shard. $2 bigint: most rows. $3 bigint: the highest id. Returns them in order. Changes nothing.
select a.id
from (select id from outbox_again where shard = $1 and id <= $3 order by id limit $2) a
join outbox_events e on e.id = a.id and e.status || '' = 'PENDING'
order by a.id
