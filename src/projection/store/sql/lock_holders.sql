-- Who keeps sessions of the consumer waiting for a lock. $1 text: the application_name of those sessions. Returns the
-- relation (null when the lock is on a row or a transaction), the process that has the lock, since when its transaction
-- is open, and the process that waits. Reads views of the server alone.
select distinct on (waiting.pid)
  (select l.relation::regclass::text from pg_locks l where l.pid = waiting.pid and not l.granted and l.relation is not null limit 1) as relation,
  holder.pid,
  date_trunc('second', holder.xact_start) as since,
  waiting.pid as waits
from pg_stat_activity waiting
cross join lateral unnest(pg_blocking_pids(waiting.pid)) as blocking (pid)
join pg_stat_activity holder on holder.pid = blocking.pid
where waiting.datname = current_database() and waiting.application_name = $1 and waiting.usename = current_user
  and waiting.wait_event_type = 'Lock' and holder.application_name is distinct from $1
order by waiting.pid, relation nulls last, holder.pid
