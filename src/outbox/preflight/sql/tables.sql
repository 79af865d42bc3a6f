-- What others have put on our tables that makes our statements fail or mean something else. $1 text[]: our tables. One
-- row for each: what it is, the table, and its name. Reads the catalogs alone. Changes nothing.
with ours as (
  select to_regclass(t)::oid as oid, t as relation, t = 'outbox_events' as is_outbox from unnest($1::text[]) as t where to_regclass(t) is not null
)
select 'row-security' as kind, relation, '' as name from ours where row_security_active(oid)
union all
select 'unlogged', o.relation, '' from ours o join pg_class c on c.oid = o.oid where c.relpersistence = 'u'
union all
select 'rule', o.relation, r.rulename::text from ours o join pg_class c on c.oid = o.oid and c.relkind in ('r', 'p')
  join pg_rewrite r on r.ev_class = o.oid where r.ev_enabled in ('O', 'A')
union all
select 'trigger', o.relation, t.tgname::text from ours o join pg_trigger t on t.tgrelid = o.oid
where not t.tgisinternal and t.tgenabled in ('O', 'A') and t.tgtype & 3 = 3 -- before, for each row
union all
select 'child', o.relation, i.inhrelid::regclass::text from ours o join pg_class c on c.oid = o.oid and c.relkind = 'r'
  join pg_inherits i on i.inhparent = o.oid
union all
select 'foreign-key', o.relation, format('%s of %s', k.conname, k.conrelid::regclass) from ours o
  join pg_constraint k on k.confrelid = o.oid and k.contype = 'f' and k.conparentid = 0
union all
select 'unique-index', o.relation, c.relname::text from ours o join pg_index i on i.indrelid = o.oid join pg_class c on c.oid = i.indexrelid
where o.is_outbox and (i.indisunique or i.indisexclusion) and not i.indisprimary
union all
select 'not-null', o.relation, a.attname::text from ours o join pg_attribute a on a.attrelid = o.oid
where o.is_outbox and a.attnum > 0 and not a.attisdropped and a.attnotnull and not a.atthasdef and a.attidentity = ''
  and a.attname not in ('id', 'event_type')
union all
select 'no-check', o.relation, k.name
from ours o, (values ('outbox_events_id_range'), ('outbox_events_dead_letter_of_id'), ('outbox_events_dead_letter_to_failed')) as k(name)
where o.is_outbox and not exists (select 1 from pg_constraint c where c.conrelid = o.oid and c.conname = k.name)
order by kind, relation, name
