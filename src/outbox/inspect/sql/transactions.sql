-- Transactions that have been open for more than $1 float8 seconds and hold back the vacuum of this database, the
-- oldest first. Prepared transactions have no pid. Changes nothing.
select pid, coalesce(application_name, '') as application, coalesce(usename::text, '') as username,
  coalesce(state, '') as state, extract(epoch from clock_timestamp() - xact_start)::float8 as age
from pg_stat_activity
where datname = current_database() and (backend_xmin is not null or backend_xid is not null)
  and xact_start < clock_timestamp() - make_interval(secs => $1) and pid <> pg_backend_pid()
union all
select null, 'prepared transaction ' || gid, owner::text, 'prepared', extract(epoch from clock_timestamp() - prepared)::float8
from pg_prepared_xacts
where database = current_database() and prepared < clock_timestamp() - make_interval(secs => $1)
order by age desc
limit 5
