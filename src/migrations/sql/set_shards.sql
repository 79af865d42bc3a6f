-- Sets the number of shards of an empty outbox; {shards} is a whole number. Several statements, run as one transaction:
-- the lock keeps writers out, and the check under it fails the transaction if one was faster.
begin;
lock table outbox_events in access exclusive mode;
do $$ begin
  if exists (select 1 from outbox_events) then
    raise exception 'the outbox is in use' using errcode = 'object_in_use';
  end if;
end $$;
create or replace function outbox_shard_count() returns int language sql immutable parallel safe return {shards};
delete from outbox_shards where shard >= outbox_shard_count();
insert into outbox_shards (shard) select generate_series(0, outbox_shard_count() - 1) on conflict do nothing;
commit;
