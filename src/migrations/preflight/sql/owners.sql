-- Relations of ours that the current role may not alter, and whose they are. $1 name: the schema. $2 name[]: relations.
-- Changes nothing.
select quote_ident(c.relname) as relation, c.relowner::regrole::text as owner
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relname = any($2) and c.relkind in ('r', 'p', 'v') and not pg_has_role(c.relowner, 'usage')
order by c.relname
