-- Notes what became of events whose rows refuse to be changed. $1 bigint[]: ids. In the same order: $2 text[]:
-- PUBLISHED, FAILED or HELD. $3 text[]: the SQLSTATE. $4 text[]: last_error, or null. $5 int[]: attempts that failed
-- just now. $6 int[]: partitions, $7 bigint[]: offsets, or null. $8 text[]: the topic of a dead letter that is to be
-- written, $9 text[]: the topic that the event was for, or null. Rows that are finished are left out, so a repeat
-- changes nothing that matters. Returns how many it noted. Reads nothing of a row but its state and the digest of its
-- key.
insert into outbox_outcomes as o (id, event_id, status, sqlstate, last_error, attempts, published_partition, published_offset, key_md5,
  dead_letter_to, dead_letter_from)
select e.id, e.event_id, u.status, u.sqlstate, u.last_error, u.attempts, u.published_partition, u.published_offset,
  md5(outbox_key_of(e.partition_key, e.aggregate_id)), u.dead_letter_to, u.dead_letter_from
from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::int[], $6::int[], $7::bigint[], $8::text[], $9::text[])
  as u(id, status, sqlstate, last_error, attempts, published_partition, published_offset, dead_letter_to, dead_letter_from)
join outbox_events e on e.id = u.id
where e.status || '' in ('PENDING', 'HELD')
on conflict (id) do update
set event_id = excluded.event_id, status = excluded.status, at = excluded.at, sqlstate = excluded.sqlstate,
  last_error = coalesce(excluded.last_error, o.last_error),
  attempts = least(o.attempts::bigint + excluded.attempts, 2147483647)::int, published_partition = excluded.published_partition,
  published_offset = excluded.published_offset, dead_letter_to = excluded.dead_letter_to, dead_letter_from = excluded.dead_letter_from
