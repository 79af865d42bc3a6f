-- Deletes jobs that ended long ago. $1 float8: age in seconds. $2 bigint: most of them. A job that has not ended stays,
-- whatever its age; so does one that is resumed at the same moment, since its row is checked again. Returns how many
-- were deleted. May be repeated.
with old as (
  select id from outbox_jobs where ended_at < clock_timestamp() - make_interval(secs => $1) order by ended_at limit $2
),
deleted as (
  delete from outbox_jobs j using old where j.id = old.id and j.ended_at < clock_timestamp() - make_interval(secs => $1) returning 1
)
select count(*) as jobs from deleted
