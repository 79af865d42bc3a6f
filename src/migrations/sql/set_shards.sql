-- Sets the number of shards of an empty outbox; {shards} is a whole number. Several statements, for one transaction:
-- the lock keeps writers out, and the check under it fails the transaction if one was faster. Kafka may have markers of
-- a shard that is taken away, so what it was at is kept for its return.
lock table outbox_events in access exclusive mode;
do $$ begin
  if exists (select 1 from outbox_events) or exists (select 1 from outbox_installation where resharding_to is not null) then
    raise exception 'the outbox is in use' using errcode = 'object_in_use';
  end if;
end $$;
create or replace function outbox_shard_count() returns int language sql immutable parallel safe return {shards};
with retired as (
  delete from outbox_shards where shard >= outbox_shard_count() returning shard, epoch, batch_seq, marked
)
insert into outbox_retired_shards (shard, epoch, batch_seq, marked) select shard, epoch, batch_seq, marked from retired;
insert into outbox_shards (shard, epoch, batch_seq, marked)
select s.shard, coalesce(r.epoch, 0), coalesce(r.batch_seq, 0), coalesce(r.marked, false)
from generate_series(0, outbox_shard_count() - 1) as s (shard)
left join outbox_retired_shards r on r.shard = s.shard
on conflict do nothing;
delete from outbox_retired_shards where shard < outbox_shard_count();
