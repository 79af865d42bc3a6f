-- Counts what cleanup_finished.sql would delete of the next rows by id. Changes nothing.
-- $1 bigint: begin after this id. $2 bigint: highest id. $3 bigint: most rows to look at. $4 float8: age in seconds for PUBLISHED
-- rows, $5 float8: for DISCARDED ones, null to leave them out.
select max(id) as last_id, count(*) as seen,
  count(*) filter (where status = 'PUBLISHED' and published_at <= now() - make_interval(secs => $4)) as published,
  count(*) filter (where status = 'DISCARDED' and coalesce(failed_at, created_at) <= now() - make_interval(secs => $5)) as discarded
from (
  select id, status, published_at, failed_at, created_at from outbox_events where id > $1 and id <= $2 order by id limit $3
) next
