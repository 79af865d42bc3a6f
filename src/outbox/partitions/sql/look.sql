-- Looks at the next rows of a partition, whether all are finished and old. Changes nothing. $1 bigint: begin after this
-- id. $2 bigint: the highest id. $3 bigint: most rows. $4 float8: age in seconds from which rows go. A note of ids that
-- were never drawn is of before they began again.
with last as materialized (select case when is_called then last_value else last_value - 1 end as id from outbox_events_id_seq),
passed as materialized (select * from outbox_passed($4) where done_id <= (select id from last))
select max(id) as last_id, count(*) as seen,
  count(*) filter (where not coalesce(case when outcome is not null then outcome in ('PUBLISHED', 'DISCARDED') and outcome_at <= now() - make_interval(secs => $4) else case status
    when 'PENDING' then id <= done_id and not exists (select 1 from outbox_again a where a.id = next.id)
    when 'PUBLISHED' then published_at <= now() - make_interval(secs => $4)
    when 'DISCARDED' then coalesce(failed_at, created_at) <= now() - make_interval(secs => $4)
  end end, false)) as needed
from (
  {next_rows}
) next
