-- Whether the current role has each privilege. $1 text[]: objects: relations, functions with their argument types, or
-- an empty text for the schema of the outbox, or the database. In the same order: $2 text[]: privileges, as in GRANT;
-- $3 text[]: the column, or null for all. `granted` is null where the relation, function or column does not exist.
-- Changes nothing.
select w.object, w.privilege, w.column_name,
  case
    when w.privilege = 'temporary' then has_database_privilege(current_database(), 'temporary')
    when w.privilege = 'usage' then coalesce(has_schema_privilege(
      (select relnamespace from pg_class where oid = to_regclass('outbox_events')), 'usage'), has_schema_privilege(current_schema(), 'usage'))
    when w.privilege = 'execute' then has_function_privilege(to_regprocedure(w.object), 'execute')
    when to_regclass(w.object) is null then null
    when w.column_name is not null then (
      select has_column_privilege(a.attrelid, a.attnum, w.privilege) from pg_attribute a
      where a.attrelid = to_regclass(w.object) and a.attname = w.column_name and not a.attisdropped)
    when has_table_privilege(to_regclass(w.object), w.privilege) then true
    when w.privilege = 'delete' then false
    -- One by one is as good.
    else not exists (
      select 1 from pg_attribute a
      where a.attrelid = to_regclass(w.object) and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' and a.attidentity = ''
        and not has_column_privilege(a.attrelid, a.attnum, w.privilege))
  end as granted
from unnest($1::text[], $2::text[], $3::text[]) as w (object, privilege, column_name)
