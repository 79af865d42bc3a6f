-- Spreads keys over {shards} shards from now on. Several statements, run as one transaction. The lock waits, with
-- little patience, until no transaction that has inserted an event is open, and keeps new ones out until the end: each
-- has computed its shard with the number of before. New shards are owned like those that were taken; one that was there
-- before goes on from its number.
set local lock_timeout = '200ms';
lock table outbox_events in share row exclusive mode;
create or replace function outbox_shard_count() returns int language sql immutable parallel safe return {shards};
insert into outbox_shards (shard, owner, epoch, lease_until, batch_seq, marked, producer_generation, low_id, done_id)
select s.shard, '00000000-0000-0000-0000-000000000000'::uuid, coalesce(r.epoch, 0), timestamptz '9999-12-31 00:00:00Z',
  coalesce(r.batch_seq, 0), coalesce(r.marked, false), coalesce(r.producer_generation, 0),
  greatest((select min(low_id) from outbox_shards), least(coalesce(r.done_id, -1), 9223372036854775806) + 1), coalesce(r.done_id, 0)
from generate_series(0, {shards} - 1) as s (shard)
left join outbox_retired_shards r on r.shard = s.shard
on conflict do nothing;
delete from outbox_retired_shards where shard < {shards};
