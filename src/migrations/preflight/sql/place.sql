-- The server, and the schema $1 name, before anything is changed. Changes nothing.
select current_setting('server_version_num')::int as version_num,
  current_setting('server_version') as version,
  pg_is_in_recovery() as is_standby,
  current_setting('transaction_read_only')::boolean as is_read_only,
  current_setting('server_encoding') as encoding,
  current_user::text as role,
  current_database()::text as database,
  quote_ident($1) as quoted,
  n.oid is not null as exists,
  coalesce(has_schema_privilege(n.oid, 'usage'), false) as may_use,
  coalesce(has_schema_privilege(n.oid, 'create'), false) as may_create,
  has_database_privilege(current_database(), 'create') as may_create_schemas
from (select 1) one left join pg_namespace n on n.nspname = $1
