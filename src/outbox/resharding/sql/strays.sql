-- Lists the events that wait in a shard and belong to another one. $1 smallint: shard. Changes nothing.
-- Those with an outcome in outbox_outcomes are left out; see strays_known.sql.
select id from outbox_events e
where shard = $1 and status = 'PENDING' and id > (select done_id from outbox_shards where shard = $1)
  and shard <> outbox_shard_of(outbox_key_of(partition_key, aggregate_id), id)
  and not exists (select 1 from outbox_outcomes o where o.id = e.id and o.event_id = e.event_id)
union all
select e.id from outbox_again a join outbox_events e on e.id = a.id
where e.shard = $1 and e.status = 'PENDING' and e.shard <> outbox_shard_of(outbox_key_of(e.partition_key, e.aggregate_id), e.id)
  and not exists (select 1 from outbox_outcomes o where o.id = e.id and o.event_id = e.event_id)
union all
select id from outbox_events e
where shard = $1 and status = 'HELD' and shard <> outbox_shard_of(outbox_key_of(partition_key, aggregate_id), id)
  and not exists (select 1 from outbox_outcomes o where o.id = e.id and o.event_id = e.event_id)
