-- Notes that events were given up whose rows refuse to be changed: they stay FAILED or HELD there, and count as
-- discarded. $1 bigint[]: ids. $2 text[]: in the same order, the SQLSTATE that the row answered. Runs with the rows of
-- their shards locked. Rows in another state are left out. Returns the ids; running it twice changes nothing that
-- matters.
insert into outbox_outcomes as o (id, event_id, status, sqlstate, key_md5)
select e.id, e.event_id, 'DISCARDED', u.sqlstate, md5(outbox_key_of(e.partition_key, e.aggregate_id))
from unnest($1::bigint[], $2::text[]) as u(id, sqlstate)
join outbox_events e on e.id = u.id
where e.status || '' in ('FAILED', 'HELD')
on conflict (id) do update
set event_id = excluded.event_id, status = excluded.status, at = excluded.at, sqlstate = excluded.sqlstate, dead_letter_to = null
returning id
