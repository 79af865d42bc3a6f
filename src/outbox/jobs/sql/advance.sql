-- Records a portion of a job. $1 uuid: the job. $2 uuid: the process. $3 bigint: its epoch. $4 jsonb: parts. $5 jsonb:
-- cursor; null keeps it. $6 jsonb: result so far. $7 float8: length of the lease in seconds. Runs in the transaction of
-- the portion, as its last statement, so that the row is locked only for a moment. Changes no row if another process
-- has the job, or if it has ended: then the portion must be rolled back.
update outbox_jobs
set parts = $4, cursor = coalesce($5, cursor), result = $6, updated_at = clock_timestamp(),
  lease_until = clock_timestamp() + make_interval(secs => $7)
where id = $1 and runner = $2 and epoch = $3 and ended_at is null
