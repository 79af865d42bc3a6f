-- Makes a job that of another process, in a new epoch: what the former process writes from now on finds no row. $1
-- uuid: the job. $2 uuid: the process. $3 text: the process, for people. $4 float8: length of the lease in seconds. $5
-- boolean: also if the former process is still at work. Returns the new epoch. No row: there is no such job, it is
-- done, or a process is at work on it. Waits for a portion that is being committed.
update outbox_jobs
set state = 'running', epoch = epoch + 1, runner = $2, run_by = $3, resumed_at = clock_timestamp(), updated_at = clock_timestamp(),
  lease_until = clock_timestamp() + make_interval(secs => $4), cancelled_by = null, error_code = null, error = null, hint = null,
  ended_at = null
where id = $1 and state <> 'done' and ($5::boolean or ended_at is not null or lease_until < clock_timestamp())
returning epoch
