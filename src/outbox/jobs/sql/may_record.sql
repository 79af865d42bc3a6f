-- Whether this role can record jobs. Returns whether the table exists, and whether it may be read and written. Changes
-- nothing.
select t.jobs is not null as exists,
  coalesce(has_table_privilege(t.jobs, 'select') and has_table_privilege(t.jobs, 'insert') and has_table_privilege(t.jobs, 'update'), false) as granted
from (select to_regclass('outbox_jobs') as jobs) t
