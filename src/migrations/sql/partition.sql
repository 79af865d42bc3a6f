-- Makes the empty plain table a partitioned one: the same columns, checks, indexes and view, and the first two partitions of {rows} ids
-- and without an end. Run as one transaction; the lock keeps writers out, and the check under it fails the transaction if one was faster.
lock table outbox_events in access exclusive mode;
do $$
declare
  claimable text := pg_get_viewdef('outbox_claimable'::regclass);
  definition record;
begin
  if exists (select 1 from outbox_events) then
    raise exception 'the outbox is in use' using errcode = 'object_in_use';
  end if;
  drop view outbox_claimable;
  alter table outbox_events rename to outbox_events_plain;
  alter sequence outbox_events_id_seq rename to outbox_events_plain_id_seq;
  create table outbox_events (like outbox_events_plain including all excluding indexes excluding storage) partition by range (id);
  for definition in
    select c.relname as name, pg_get_indexdef(c.oid) as text, i.indisprimary as is_key
    from pg_index i join pg_class c on c.oid = i.indexrelid
    where i.indrelid = 'outbox_events_plain'::regclass
  loop
    execute format('alter index %I rename to %I', definition.name, definition.name || '_plain');
    if definition.is_key then
      alter table outbox_events add primary key (id);
    else
      execute replace(definition.text, 'outbox_events_plain', 'outbox_events');
    end if;
  end loop;
  drop table outbox_events_plain;
  execute 'create view outbox_claimable with (security_invoker = true) as ' || replace(claimable, 'outbox_events_plain', 'outbox_events');
  comment on table outbox_events is 'Transactional outbox: insert a row in the transaction of the business change; outbox-relay publishes it to Kafka.';
end $$;
-- The settings of the plain table; a partitioned one can have none.
create table outbox_events_p1 partition of outbox_events for values from (minvalue) to ({rows} + 1)
  with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
create table outbox_events_last partition of outbox_events for values from ({rows} + 1) to (maxvalue)
  with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
