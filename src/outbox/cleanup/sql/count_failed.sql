-- Counts the FAILED rows of an age, and those of them that stay: their key is held, or their dead letter is still to be
-- written. $1 bigint: begin after this id. $2 bigint: highest id. $3 bigint: most rows to look at. $4 float8: age in
-- seconds since the failure, which for rows that do not say when they failed is now. Changes nothing. The rows are
-- those of failed.sql: outcomes in outbox_outcomes overrule what rows say.
select max(id) as last_id, count(*) as seen,
  count(*) filter (where old) as old,
  count(*) filter (where old and (
    dead_letter_to is not null
    or exists (select 1 from outbox_held_keys h where h.first_id = next.id)
    or exists (
      select 1 from outbox_held_keys h
      where h.shard = next.shard and h.partition_key is not null and md5(h.partition_key) = md5(next.key))
  )) as kept
from (
  select f.id, e.shard, f.dead_letter_to, outbox_key_of(e.partition_key, e.aggregate_id) as key,
    e.id is not null and coalesce(f.failed_at, now()) <= now() - make_interval(secs => $4) as old
  from (
    (select id, failed_at, dead_letter_to, null::uuid as by_outcome
      from outbox_events e
      where status = 'FAILED' and id > $1 and id <= $2
        and not exists (select 1 from outbox_outcomes o where o.id = e.id and o.event_id = e.event_id and o.status = 'DISCARDED')
      order by id limit $3)
    union all
    (select id, at, dead_letter_to, event_id from outbox_outcomes where status = 'FAILED' and id > $1 and id <= $2 order by id limit $3)
    order by id limit $3
  ) f
  left join outbox_events e on e.id = f.id and e.event_id = coalesce(f.by_outcome, e.event_id)
) next
