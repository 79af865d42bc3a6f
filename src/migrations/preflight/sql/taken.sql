-- What pending migrations would make and what is there already, of somebody else. $1 name: the schema. $2 name[]:
-- relations, $3 text[]: functions, $4 int[]: how many arguments each of them has, $5 text[] and $6 text[]: columns, by
-- table and name. Changes nothing. Returns a description of each. A table takes the name of a type, too.
with place as (select oid from pg_namespace where nspname = $1)
select case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'i' then 'index' when 'I' then 'index' when 'S' then 'sequence'
    when 'f' then 'foreign table' when 'c' then 'type' else 'table' end || ' ' || quote_ident(c.relname) as what
from pg_class c join place p on c.relnamespace = p.oid
where c.relname = any($2)
union
select 'type ' || quote_ident(t.typname)
from pg_type t join place p on t.typnamespace = p.oid
where t.typname = any($2) and t.typrelid = 0 and t.typcategory <> 'A'
union
select 'function ' || quote_ident(f.proname)
from pg_proc f join place p on f.pronamespace = p.oid
join unnest($3::text[], $4::int[]) wanted (name, arguments) on wanted.name = f.proname and wanted.arguments = f.pronargs
union
select format('column %I of %I', a.attname, c.relname)
from pg_class c join place p on c.relnamespace = p.oid
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join unnest($5::text[], $6::text[]) wanted (tab, name) on wanted.tab = c.relname and wanted.name = a.attname
order by 1
