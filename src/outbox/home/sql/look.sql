-- Where the outbox was when a relay first ran on it, which database this is, and whether PostgreSQL tells this role
-- which server it is (some providers do not). Changes nothing.
select i.home_system, i.home_database,
  (select oid from pg_database where datname = current_database())::bigint as database,
  has_function_privilege('pg_control_system()', 'execute') as tells_system
from outbox_installation i
