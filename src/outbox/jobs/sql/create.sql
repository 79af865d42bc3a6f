-- Records a job that starts. $1 uuid: its id. $2 text: kind. $3 jsonb: arguments. $4 text: who. $5 text: why, or null.
-- $6 jsonb: parts. $7 jsonb: cursor, or null. $8 uuid: the process. $9 text: the process, for people. $10 float8:
-- length of the lease in seconds. A repeat fails on the primary key.
insert into outbox_jobs (id, kind, arguments, actor, reason, parts, cursor, runner, run_by, lease_until)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, clock_timestamp() + make_interval(secs => $10))
