-- What the server and this session say of themselves. Changes nothing. `reset_val` is what the database, the role and
-- the start of the connection make of a setting, before the session changed it.
select current_setting('server_version_num')::int as version_num,
  current_setting('server_version') as version,
  current_user::text as username,
  current_database()::text as database,
  (select rolsuper from pg_roles where rolname = current_user) as is_superuser,
  pg_is_in_recovery() as is_standby,
  current_setting('default_transaction_read_only')::boolean as is_read_only,
  current_setting('fsync')::boolean as fsync,
  current_setting('full_page_writes')::boolean as full_page_writes,
  (select reset_val from pg_settings where name = 'synchronous_commit') as synchronous_commit,
  (select reset_val from pg_settings where name = 'TimeZone') as session_timezone,
  current_setting('max_connections')::int
    - current_setting('superuser_reserved_connections')::int
    - coalesce(current_setting('reserved_connections', true)::int, 0) as connections_allowed,
  (select count(*) from pg_stat_activity where backend_type = 'client backend') as connections_used,
  (select nullif(rolconnlimit, -1) from pg_roles where rolname = current_user) as role_connections_allowed,
  (select version from pg_stat_ssl where pid = pg_backend_pid()) as tls_version,
  coalesce((select pg_has_role(oid, 'usage') from pg_roles where rolname = 'pg_read_all_stats'), false) as sees_all_sessions,
  extract(epoch from clock_timestamp())::float8 as clock,
  (select extract(epoch from clock_timestamp() - backend_start)::float8 from pg_stat_activity where pid = pg_backend_pid()) as session_age
