-- The shards that are still at work: the instance, if one has a lease, and the number of events in flight. Changes
-- nothing. $1 uuid: the nil uuid.
select s.shard, i.name as owner, s.lease_until >= clock_timestamp() as leased, coalesce(cardinality(s.batch_ids), 0) as in_flight
from outbox_shards s
left join outbox_instances i on i.instance = s.owner
where s.owner is distinct from $1
order by s.shard
