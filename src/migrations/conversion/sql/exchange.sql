-- Ends a conversion, in one transaction with settings.sql: the plain table becomes the first partition of a new
-- one that takes its name, its rules and its readers. No row is read or written. {rows} is the number of ids of a
-- partition. The table is locked before its views: a lane settles in the table and then claims by the view, in one
-- transaction. A statement that is between the two locks of a view at that moment makes this attempt fail after its 200
-- ms.
set local row_security = off;
set local enable_seqscan = off;
do $$
declare
  size constant bigint := {rows};
  plain constant oid := 'outbox_events'::regclass;
  remark constant text := obj_description(plain, 'pg_class');
  old pg_class;
  views constant oid[] := array(
    select r.ev_class from pg_depend d join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
    where d.refclassid = 'pg_class'::regclass and d.refobjid = plain);
  again text[] := '{}'; -- before the old table is attached
  behind text[]; -- afterwards
  item record;
  last_id bigint;
  called boolean;
  highest bigint;
  from_id bigint;
  to_id bigint;
  part text;
  tables text[] := '{outbox_events}';
begin
  select * into old from pg_class where oid = plain;
  perform set_config('search_path', concat_ws(', ', old.relnamespace::regnamespace::text, nullif(current_setting('search_path'), '')), true);

  lock table outbox_events in access exclusive mode;
  for item in select v.oid::regclass as name, v.relowner from pg_class v where v.oid = any(views) order by v.oid loop
    -- Locks the view alone; LOCK would take every table in it.
    execute format('alter view %s owner to %s', item.name, item.relowner::regrole);
  end loop;
  -- Locks the sequence as well. From here on nobody writes or draws an id, and no transaction that has is open.
  alter sequence outbox_events_id_seq rename to outbox_events_p1_id_seq;
  select s.last_value, s.is_called into last_id, called from outbox_events_p1_id_seq s;
  highest := greatest(case when called then last_id else 0 end, coalesce((select max(id) from outbox_events), 0));
  -- What the check says is true now: no id is above the highest, as the primary key shows. The end of this transaction
  -- takes it away.
  to_id := greatest(highest, size) + 1;
  execute format('create or replace function outbox_events_bound() returns bigint language sql immutable parallel safe return %s', to_id - 1);

  behind := array(
    select format('create or replace view %s%s as %s', v.oid::regclass, ' with (' || array_to_string(v.reloptions, ', ') || ')', pg_get_viewdef(v.oid))
    from pg_class v where v.oid = any(views));
  for item in
    select c.relname as name, pg_get_indexdef(c.oid) as text,
      (select format('alter table outbox_events add constraint %I %s', k.conname, pg_get_constraintdef(k.oid))
        from pg_constraint k where k.conindid = c.oid and k.contype = 'p') as key
    from pg_index i join pg_class c on c.oid = i.indexrelid
    where i.indrelid = plain
  loop
    again := again || coalesce(item.key, item.text);
    execute format('alter index %I rename to %I', item.name, left(item.name, 60) || '_p1');
  end loop;
  for item in
    select t.tgname as name, pg_get_triggerdef(t.oid) as text,
      case t.tgenabled when 'D' then 'disable' when 'R' then 'enable replica' when 'A' then 'enable always' end as change
    from pg_trigger t where t.tgrelid = plain and not t.tgisinternal
  loop
    again := again || item.text;
    if item.change is not null then
      again := again || format('alter table outbox_events %s trigger %I', item.change, item.name);
    end if;
    execute format('drop trigger %I on outbox_events', item.name);
  end loop;
  again := again || array(
    select format('create policy %I on outbox_events as %s for %s to %s', p.polname,
        case when p.polpermissive then 'permissive' else 'restrictive' end,
        case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
        (select string_agg(case r.role when 0 then 'public' else r.role::regrole::text end, ', ') from unnest(p.polroles) r (role)))
      || coalesce(' using (' || pg_get_expr(p.polqual, plain) || ')', '')
      || coalesce(' with check (' || pg_get_expr(p.polwithcheck, plain) || ')', '')
    from pg_policy p where p.polrelid = plain);
  if old.relrowsecurity then again := again || 'alter table outbox_events enable row level security'::text; end if;
  if old.relforcerowsecurity then again := again || 'alter table outbox_events force row level security'::text; end if;
  for item in
    select p.pubname as name, pg_get_expr(r.prqual, plain) as filter,
      (select string_agg(quote_ident(a.attname), ', ') from pg_attribute a where a.attrelid = plain and a.attnum = any(r.prattrs)) as columns
    from pg_publication_rel r join pg_publication p on p.oid = r.prpubid where r.prrelid = plain
  loop
    execute format('alter publication %I drop table outbox_events', item.name);
    behind := behind || (format('alter publication %I add table outbox_events', item.name)
      || coalesce(' (' || item.columns || ')', '') || coalesce(' where (' || item.filter || ')', ''));
  end loop;
  -- Rights come last, so that neither defaults of the schema nor a right that the owner has given away are in the way.
  behind := behind
    || format('revoke all on outbox_events, outbox_events_id_seq from %s', old.relowner::regrole)
    || array(
      select format('grant %s on %s to %s%s', g.privilege || coalesce(' (' || quote_ident(g.column_name) || ')', ''), g.relation,
        case g.grantee when 0 then 'public' else g.grantee::regrole::text end, case when g.is_grantable then ' with grant option' else '' end)
      from (
        select 'outbox_events' as relation, a.grantee, a.privilege_type as privilege, a.is_grantable, null::name as column_name
        from aclexplode(coalesce(old.relacl, acldefault('r', old.relowner))) a
        union all
        select 'outbox_events', a.grantee, a.privilege_type, a.is_grantable, c.attname
        from pg_attribute c, aclexplode(c.attacl) a where c.attrelid = plain and not c.attisdropped
        union all
        select 'sequence outbox_events_id_seq', a.grantee, a.privilege_type, a.is_grantable, null
        from pg_class s, aclexplode(coalesce(s.relacl, acldefault('s', s.relowner))) a where s.oid = 'outbox_events_p1_id_seq'::regclass
      ) g);

  alter table outbox_events rename to outbox_events_p1;
  create table outbox_events (like outbox_events_p1 including all excluding indexes) partition by range (id);
  -- The copy has a sequence of its own, which goes on where the old one is. The old one goes: from PostgreSQL 17 on a
  -- partition may not have its own.
  perform setval('outbox_events_id_seq', last_id, called);
  alter table outbox_events_p1 alter column id drop identity;
  alter table outbox_events drop constraint outbox_events_bound;
  for item in select unnest(again) as text loop execute item.text; end loop;
  execute format('alter table outbox_events attach partition outbox_events_p1 for values from (minvalue) to (%s)', to_id);
  alter table outbox_events_p1 drop constraint outbox_events_bound;
  drop function outbox_events_bound();

  -- While ids are in the first partition, the relay makes the others in time.
  from_id := to_id;
  loop
    to_id := case when highest >= size and from_id - 1 - highest < 2 * size then from_id + size end;
    part := case when to_id is null then 'outbox_events_last' else 'outbox_events_p' || from_id end;
    execute format('create table %I partition of outbox_events for values from (%s) to (%s)
      with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_insert_scale_factor = 0.05,
        autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0)', part, from_id, coalesce(to_id::text, 'maxvalue'));
    tables := tables || part;
    exit when to_id is null;
    from_id := to_id;
  end loop;

  execute format('comment on table outbox_events is %L', remark);
  comment on table outbox_events_p1 is null;
  if old.reltablespace <> 0 then
    execute format('alter table outbox_events set tablespace %I', (select spcname from pg_tablespace where oid = old.reltablespace));
  end if;
  foreach part in array tables loop execute format('alter table %I owner to %s', part, old.relowner::regrole); end loop;
  for item in
    select distinct case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee
    from pg_class c, aclexplode(c.relacl) a
    where c.oid in ('outbox_events'::regclass, 'outbox_events_id_seq'::regclass)
  loop
    execute format('revoke all on outbox_events, outbox_events_id_seq from %s', item.grantee);
  end loop;
  for item in select unnest(behind) as text loop execute item.text; end loop;

  -- A view that was made while we waited for the lock: not this time.
  if exists (
    select 1 from pg_depend d where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = plain)
  then
    raise exception 'a view was made meanwhile' using errcode = 'lock_not_available';
  end if;
end $$;
