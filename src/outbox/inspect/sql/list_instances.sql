-- Instances that were seen lately, by name: since when they run, how long ago the last heartbeat was, and how many
-- shards they own. One that is silent for ten leases is cleared away by the others. Changes nothing. Times are clamped
-- first: PostgreSQL before 17 cannot subtract an infinite one.
select i.name, i.version, extract(epoch from clock_timestamp() - least(greatest(i.started_at, 'epoch'), clock_timestamp()))::float8 as up,
  extract(epoch from clock_timestamp() - least(greatest(i.heartbeat_at, 'epoch'), clock_timestamp()))::float8 as silent,
  (select count(*) from outbox_shards s where s.owner = i.instance) as shards
from outbox_instances i
order by i.name
