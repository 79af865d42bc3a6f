-- Whether the current role can make and drop partitions of the outbox: it owns the table and each partition, and may
-- create tables in its schema. `begun`: a conversion (migrate up --partitioned) was interrupted. No row when the table
-- does not exist. Changes nothing.
select c.relkind = 'p' as partitioned, current_user::text as role, c.relowner::regrole::text as owner,
  c.relnamespace::regnamespace::text as schema,
  array(
    select t.oid::regclass::text from pg_class t
    where t.oid in (select relid from pg_partition_tree(c.oid) where isleaf or level = 0) and not pg_has_role(t.relowner, 'usage')
    order by 1
  ) as foreign_tables,
  has_schema_privilege(c.relnamespace, 'create') as may_create,
  exists (select 1 from pg_constraint k where k.conrelid = c.oid and k.conname = 'outbox_events_bound') as begun
from pg_class c
where c.oid = to_regclass('outbox_events')
