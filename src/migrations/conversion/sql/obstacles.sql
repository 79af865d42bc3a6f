-- What keeps the plain outbox from becoming the first partition of a new table: whatever could not be carried over, or
-- would go on pointing at the old table. Changes nothing. Returns a sentence about each, and what to do.
with outbox as (select * from pg_class where oid = 'outbox_events'::regclass),
used_by as (
  select d.classid, d.objid, d.objsubid, pg_describe_object(d.classid, d.objid, d.objsubid) as what
  from pg_depend d, outbox o
  where d.refclassid = 'pg_class'::regclass and d.refobjid = o.oid
  union
  select d.classid, d.objid, d.objsubid, pg_describe_object(d.classid, d.objid, d.objsubid)
  from pg_depend d, outbox o join pg_type t on t.oid = o.reltype
  where d.refclassid = 'pg_type'::regclass and d.refobjid in (t.oid, t.typarray) and d.objid not in (o.oid, t.typarray)
),
views as (
  select distinct v.oid, v.relname, v.relowner
  from used_by u join pg_rewrite r on u.classid = 'pg_rewrite'::regclass and r.oid = u.objid
  join pg_class v on v.oid = r.ev_class and v.relkind = 'v'
)
select format('the role %s does not own outbox_events, which belongs to %s', current_user, relowner::regrole) as what,
  format('connect as %s, as a member of it, or as a superuser', relowner::regrole) as fix
from outbox where not pg_has_role(relowner, 'usage')
union all
select format('the role %s may not create tables in the schema %s', r.name, o.relnamespace::regnamespace),
  format('grant create on schema %s to %I: partitions are made there, now and later', o.relnamespace::regnamespace, r.name)
from outbox o, lateral (select current_user::text union select pg_get_userbyid(o.relowner)::text) r (name)
where not has_schema_privilege(r.name, o.relnamespace, 'create')
union all
select format('the view %I belongs to %s, and has to be pointed at the new table', relname, relowner::regrole),
  'connect as a superuser, or make one role the owner of both'
from views where not pg_has_role(relowner, 'usage')
union all
select format('%s is bound to outbox_events itself', u.what), 'drop it, and make it again afterwards'
from used_by u, outbox o
where not case u.classid
  when 'pg_rewrite'::regclass then exists (select 1 from pg_rewrite r join views v on v.oid = r.ev_class where r.oid = u.objid)
  when 'pg_constraint'::regclass then exists (select 1 from pg_constraint c where c.oid = u.objid and c.conrelid = o.oid)
  when 'pg_policy'::regclass then exists (select 1 from pg_policy p where p.oid = u.objid and p.polrelid = o.oid)
  when 'pg_trigger'::regclass then exists (select 1 from pg_trigger t where t.oid = u.objid and t.tgrelid = o.oid)
  when 'pg_attrdef'::regclass then exists (select 1 from pg_attrdef a where a.oid = u.objid and a.adrelid = o.oid)
  when 'pg_statistic_ext'::regclass then exists (select 1 from pg_statistic_ext s where s.oid = u.objid and s.stxrelid = o.oid)
  when 'pg_publication_rel'::regclass then true
  when 'pg_type'::regclass then u.objid = o.reltype
  when 'pg_class'::regclass then u.objid in (o.oid, o.reltoastrelid, 'outbox_events_id_seq'::regclass)
    or exists (select 1 from pg_index i where i.indexrelid = u.objid and i.indrelid = o.oid)
  else false
end
union all
select format('the constraint %I of outbox_events (%s) cannot be one of a partitioned table', c.conname, pg_get_constraintdef(c.oid)),
  case when c.contype = 'c' and not c.convalidated then format('alter table outbox_events validate constraint %I', c.conname)
    else format('alter table outbox_events drop constraint %I', c.conname) end
from pg_constraint c join outbox o on o.oid = c.conrelid
where c.contype in ('f', 'u', 'x')
  or (c.contype = 'c' and (c.connoinherit or (not c.convalidated and c.conname not in (
    -- Ours, which the conversion validates.
    'outbox_events_bound', 'outbox_events_id_range', 'outbox_events_dead_letter_of_id', 'outbox_events_dead_letter_to_failed'))))
union all
select format('the index %s of outbox_events %s', i.indexrelid::regclass,
    case when i.indisvalid then 'is unique, and does not have the id among its columns' else 'is not valid' end),
  format('drop index concurrently %s', i.indexrelid::regclass)
from pg_index i join outbox o on o.oid = i.indrelid
where not i.indisprimary and not exists (select 1 from pg_constraint c where c.conindid = i.indexrelid)
  and (not i.indisvalid or (i.indisunique and not exists (
    select 1 from unnest(i.indkey) with ordinality k (attnum, place) join pg_attribute a on a.attrelid = o.oid and a.attnum = k.attnum
    where k.place <= i.indnkeyatts and a.attname = 'id')))
union all
select format('the trigger %I of outbox_events is for each row, and uses a transition table', t.tgname),
  format('drop trigger %I on outbox_events, and make it one for each statement', t.tgname)
from pg_trigger t join outbox o on o.oid = t.tgrelid
where not t.tgisinternal and t.tgtype & 1 = 1 and (t.tgoldtable is not null or t.tgnewtable is not null)
union all
select format('the publication %I would publish partitions under their own names', p.pubname),
  format('alter publication %I set (publish_via_partition_root = true)', p.pubname)
from pg_publication p, outbox o
where not p.pubviaroot and (p.puballtables
  or exists (select 1 from pg_publication_rel r where r.prpubid = p.oid and r.prrelid = o.oid)
  or exists (select 1 from pg_publication_namespace n where n.pnpubid = p.oid and n.pnnspid = o.relnamespace))
union all
select format('the publication %I belongs to %s, and has to be given the new table', p.pubname, p.pubowner::regrole),
  'connect as a superuser, or make one role the owner of both'
from pg_publication p join pg_publication_rel r on r.prpubid = p.oid join outbox o on o.oid = r.prrelid
where not pg_has_role(p.pubowner, 'usage')
union all
select 'row level security is forced on outbox_events, so that this role may not see every row', 'connect as a role with bypassrls'
from outbox where relforcerowsecurity and not (select rolsuper or rolbypassrls from pg_roles where rolname = current_user)
union all
select format('outbox_events %s', f.what), f.fix
from outbox o, lateral (values
  (o.relpersistence <> 'p', 'is not a logged table', 'alter table outbox_events set logged'),
  (o.relreplident <> 'd', 'has a replica identity other than its primary key', 'alter table outbox_events replica identity default'),
  (o.relispartition or exists (select 1 from pg_inherits i where o.oid in (i.inhparent, i.inhrelid)), 'takes part in inheritance',
    'end that first'),
  (exists (select 1 from pg_seclabel s where s.classoid = 'pg_class'::regclass and s.objoid = o.oid), 'has security labels',
    'remove them, and put them on again afterwards')
) f (holds, what, fix)
where f.holds
union all
select format('the name %s is taken', n.name), 'rename that table or index'
from outbox o, lateral (
  select 'outbox_events_p1' union all select 'outbox_events_last' union all select 'outbox_events_p1_id_seq'
  union all select left(c.relname, 60) || '_p1' from pg_index i join pg_class c on c.oid = i.indexrelid where i.indrelid = o.oid
) n (name)
where exists (select 1 from pg_class c where c.relnamespace = o.relnamespace and c.relname = n.name)
