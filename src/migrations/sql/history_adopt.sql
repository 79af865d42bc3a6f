-- Takes over what version 0.1 noted in refinery's table, if it has it, together with the right to read it. The old
-- table stays as it is, so that a 0.1 that is started again does not take the schema for missing. Rows that are not of
-- ours are left out. {known} is replaced by rows of (version, name, checksum). Runs in the transaction that applies
-- migrations; repeatable.
do $$
declare
  item record;
begin
  if to_regclass('refinery_schema_history') is null then return; end if;
  insert into outbox_schema_history (version, name, applied_on, checksum)
  select (j ->> 'version')::int, j ->> 'name', j ->> 'applied_on', j ->> 'checksum'
  from (select to_jsonb(h) as j from refinery_schema_history h) h
  where (j ->> 'version', j ->> 'name', j ->> 'checksum') in ({known})
  on conflict do nothing;
  for item in
    select distinct case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee
    from pg_class c, aclexplode(c.relacl) a
    where c.oid = 'refinery_schema_history'::regclass and a.privilege_type = 'SELECT' and a.grantee <> c.relowner
  loop
    execute format('grant select on outbox_schema_history to %s', item.grantee);
  end loop;
end $$;
