-- Says that an instance lives and clears away those that have been silent for ten leases.
-- $1 uuid: instance. $2 text: name. $3 text: version. $4 float8: lease in seconds.
-- Returns the number of live instances, this one included, and the number of shards.
with gone as (
  delete from outbox_instances where heartbeat_at < clock_timestamp() - make_interval(secs => $4::float8 * 10) and instance <> $1
),
beat as (
  insert into outbox_instances (instance, name, version) values ($1, $2, $3)
  on conflict (instance) do update set heartbeat_at = clock_timestamp()
)
select
  (select count(*) from outbox_instances
    where heartbeat_at > clock_timestamp() - make_interval(secs => $4) and instance <> $1) + 1 as live,
  (select count(*) from outbox_shards) as shards,
  (select count(*) from outbox_shards where owner is null or lease_until < clock_timestamp()) as free
