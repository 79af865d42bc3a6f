-- Looks at the next rows of a partition, whether all are finished and old. Changes nothing.
-- $1 bigint: begin after this id. $2 bigint: the highest id. $3 bigint: most rows. $4 float8: age in seconds from which rows go.
select max(id) as last_id, count(*) as seen,
  count(*) filter (where not coalesce(case status
    when 'PUBLISHED' then published_at <= now() - make_interval(secs => $4)
    when 'DISCARDED' then coalesce(failed_at, created_at) <= now() - make_interval(secs => $4)
  end, false)) as needed
from (
  select id, status, published_at, failed_at, created_at from outbox_events where id > $1 and id <= $2 order by id limit $3
) next
