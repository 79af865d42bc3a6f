-- A sign of life of the process that runs a job. $1 uuid: the job. $2 uuid: the process. $3 bigint: its epoch. $4
-- float8: length of the lease in seconds. $5 jsonb: parts; null keeps them. Returns whether the job is to be cancelled,
-- and by whom. No row: another process has the job, or it has ended. May be repeated.
update outbox_jobs
set updated_at = clock_timestamp(), lease_until = clock_timestamp() + make_interval(secs => $4), parts = coalesce($5, parts)
where id = $1 and runner = $2 and epoch = $3 and ended_at is null
returning state = 'cancelling' as cancelling, outbox_text(cancelled_by) as cancelled_by
