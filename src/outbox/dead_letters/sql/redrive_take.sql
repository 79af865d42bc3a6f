-- Notes that dead letters go back. Arrays of one length, as in redrive_states.sql: $1 text[]: topics. $2 int[]:
-- partitions. $3 bigint[]: offsets. $4 uuid[]: event ids. $5 text[]: when each failed, or null. $6 text: who. Returns
-- the places that this transaction may send back; one that went back already is not among them, unless another dead
-- letter lies there by now. Waits for a transaction that has the same place in hand. In order of the places, so that
-- two do not wait for each other.
insert into outbox_redriven as r (topic, partition, "offset", event_id, failed_at, actor)
select topic, partition, "offset", event_id, failed_at, $6
from unnest($1::text[], $2::int[], $3::bigint[], $4::uuid[], $5::text[]) as u(topic, partition, "offset", event_id, failed_at)
order by topic, partition, "offset"
on conflict (topic, partition, "offset") do update
set event_id = excluded.event_id, failed_at = excluded.failed_at, row_id = null, at = now(), actor = excluded.actor
where (r.event_id, r.failed_at) is distinct from (excluded.event_id, excluded.failed_at)
returning topic, partition, "offset"
