-- Ends a job. $1 uuid: the job. $2 uuid: the process. $3 bigint: its epoch. $4 text: done, cancelled or failed. $5
-- jsonb: parts; null keeps them. $6 jsonb: result; null keeps it. $7 text: error code, $8 text: error, $9 text: hint,
-- or null. $10 text: who cancelled it, if nobody has said so before. Changes no row if another process has the job, or
-- if it has ended.
update outbox_jobs
set state = $4, parts = coalesce($5, parts), result = coalesce($6, result), error_code = $7, error = $8, hint = $9,
  cancelled_by = case when $4 = 'cancelled' then coalesce(cancelled_by, $10) end,
  updated_at = clock_timestamp(), ended_at = clock_timestamp()
where id = $1 and runner = $2 and epoch = $3 and ended_at is null
