-- What became of dead letters. Arrays of one length: $1 text[]: their topics. $2 int[]: partitions. $3 bigint[]:
-- offsets. $4 uuid[]: event ids. $5 text[]: when each failed, as its header says, or null. $6 bigint[]: the row that
-- each came from, or null. Returns one row each, in the same order: whether it went back and as which row, and the
-- state of its own row, null if there is none. Where the row is gone, the last decision about it tells, for the dead
-- letters that were there when it was made. Changes nothing.
select r.topic is not null as redriven, r.row_id as redriven_as,
  coalesce(e.status, case d.decision when 'discard' then 'DISCARDED' when 'retry' then 'PUBLISHED' end) as status,
  h.first_id is not null as holds_key
from unnest($1::text[], $2::int[], $3::bigint[], $4::uuid[], $5::text[], $6::bigint[]) with ordinality
  as u(topic, partition, "offset", event_id, failed_at, row_id, number)
left join outbox_redriven r on r.topic = u.topic and r.partition = u.partition and r."offset" = u."offset"
  and r.event_id = u.event_id and r.failed_at is not distinct from u.failed_at
left join outbox_current e on e.id = u.row_id and e.event_id = u.event_id
left join outbox_decisions d on d.id = u.row_id and d.event_id = u.event_id
  and coalesce(u.failed_at collate "C" <= to_char(d.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') collate "C", true)
left join outbox_held_keys h on h.first_id = e.id
order by u.number
