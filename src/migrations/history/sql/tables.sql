-- Which tables of history the schema $1 name has: ours, and the one where version 0.1 kept its own (refinery's default,
-- which may be an application's), and whether there is an outbox beside them. Changes nothing.
select
  coalesce(bool_or(c.relname = 'outbox_schema_history'), false) as ours,
  coalesce(bool_or(c.relname = 'refinery_schema_history'), false) as former,
  count(*) filter (where c.relname in ('outbox_events', 'outbox_shards')) = 2 as outbox
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relkind in ('r', 'p')
  and c.relname in ('outbox_schema_history', 'refinery_schema_history', 'outbox_events', 'outbox_shards')
