-- Counts the FAILED rows of an age, and those of them that stay: their key is held, or their dead letter is still to be
-- written. $1 bigint: begin after this id. $2 bigint: highest id. $3 bigint: most rows to look at. $4 float8: age in
-- seconds since the failure, which for rows that do not say when they failed is now. Changes nothing.
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
  select id, shard, dead_letter_to, outbox_key_of(partition_key, aggregate_id) as key,
    coalesce(failed_at, now()) <= now() - make_interval(secs => $4) as old
  from outbox_events
  where status = 'FAILED' and id > $1 and id <= $2
  order by id limit $3
) next
