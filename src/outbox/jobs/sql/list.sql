-- Jobs, the newest first. $1 uuid: only this one, or null. $2 text[]: only these states, or null; `stalled` is one of
-- them. $3 text[]: only these kinds, or null. $4 bigint: most of them. Texts are cut, so that a row of somebody else
-- cannot fill the memory. Changes nothing.
select j.id, outbox_text(left(j.kind, 100)) as kind, s.state, outbox_text(left(j.actor, 300)) as actor, outbox_text(left(j.reason, 2000)) as reason,
  outbox_text(left(j.run_by, 300)) as run_by, outbox_text(left(j.cancelled_by, 300)) as cancelled_by, j.epoch,
  case when pg_column_size(j.arguments) <= 1000000 then j.arguments end as arguments,
  case when pg_column_size(j.parts) <= 100000 then j.parts end as parts,
  case when pg_column_size(j.cursor) <= 10000000 then j.cursor end as cursor,
  case when pg_column_size(j.result) <= 100000 then j.result end as result,
  outbox_text(left(j.error_code, 100)) as error_code, outbox_text(left(j.error, 4000)) as error, outbox_text(left(j.hint, 4000)) as hint,
  j.started_at, j.resumed_at, j.updated_at, j.ended_at
from outbox_jobs j
cross join lateral (
  select case when j.ended_at is null and j.lease_until < clock_timestamp() then 'stalled' else j.state end as state
) s
where ($1::uuid is null or j.id = $1) and ($2::text[] is null or s.state = any($2)) and ($3::text[] is null or j.kind = any($3))
order by j.started_at desc, j.id desc
limit $4
