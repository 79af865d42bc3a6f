-- The partitions of the outbox in the order of their ids; none for a plain table. Changes nothing. Returns the name as
-- it can stand in a statement, the schema, the first id (null: no lower bound), the id behind the last (null: no end),
-- and whether a DETACH CONCURRENTLY was left half done.
select name, schema, lower, upper, pending
from (
  select c.oid::regclass::text as name, quote_ident(n.nspname) as schema,
    substring(pg_get_expr(c.relpartbound, c.oid) from 'FROM \(''(-?\d+)''')::bigint as lower,
    substring(pg_get_expr(c.relpartbound, c.oid) from 'TO \(''(-?\d+)''')::bigint as upper,
    i.inhdetachpending as pending
  from pg_inherits i
  join pg_class c on c.oid = i.inhrelid
  join pg_namespace n on n.oid = c.relnamespace
  where i.inhparent = 'outbox_events'::regclass
) parts
order by lower nulls first
