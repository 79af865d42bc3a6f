-- Counts what finished.sql would delete of the next rows by id. Changes nothing. $1 bigint: begin after this
-- id. $2 bigint: highest id. $3 bigint: most rows to look at. $4 float8: age in seconds for PUBLISHED rows, $5 float8:
-- for DISCARDED ones, null to leave them out. A note of ids that were never drawn is of before they began again.
with last as materialized (select case when is_called then last_value else last_value - 1 end as id from outbox_events_id_seq),
passed as materialized (select * from outbox_passed($4) where done_id <= (select id from last))
select max(id) as last_id, count(*) as seen,
  count(*) filter (where case when outcome is not null then outcome = 'PUBLISHED' and outcome_at <= now() - make_interval(secs => $4) else case status
    when 'PENDING' then id <= done_id and not exists (select 1 from outbox_again a where a.id = next.id)
    when 'PUBLISHED' then published_at <= now() - make_interval(secs => $4)
  end end) as published,
  count(*) filter (where case
    when outcome is not null then outcome = 'DISCARDED' and outcome_at <= now() - make_interval(secs => $5)
    else status = 'DISCARDED' and coalesce(failed_at, created_at) <= now() - make_interval(secs => $5)
  end) as discarded
from (
  {next_rows}
) next
