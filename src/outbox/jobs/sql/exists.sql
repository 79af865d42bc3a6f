-- Whether there is a job. $1 uuid: its id. Returns one row or none. Changes nothing.
select 1 from outbox_jobs where id = $1
