-- Says that an instance lives and clears away those that have been silent for ten leases. $1 uuid: instance. $2 text:
-- name. $3 text: version. $4 float8: lease in seconds. Returns the number of live instances, this one included, the
-- number of shards, how many of them can be taken, whether the number is about to change (then acquire_leases.sql gives
-- only those with a batch in flight), whether this session holds its advisory lock, and the instances that lack theirs:
-- their process is dead, or has lost its connection. Behind a pooler the locks say nothing, because they stay with the
-- pooler's connection; then nobody lacks one.
with gone as (
  delete from outbox_instances where heartbeat_at < clock_timestamp() - make_interval(secs => $4::float8 * 10) and instance <> $1
),
held as (
  select objid::bigint as key, pid from pg_locks
  where locktype = 'advisory' and classid = 28514 and objsubid = 2 and granted
    and database = (select oid from pg_database where datname = current_database())
),
mine as (
  select exists (select 1 from held where pid = pg_backend_pid() and key = outbox_session_key($1)) as locked
),
beat as (
  -- The protocol is the one that migration V12 asks for: what is older cannot say that it lives.
  insert into outbox_instances (instance, name, version, session_lock, protocol) values ($1, $2, $3, (select locked from mine), 2)
  on conflict (instance) do update set heartbeat_at = clock_timestamp(), session_lock = excluded.session_lock
),
others as (
  select instance,
    session_lock and not exists (select 1 from held where key = outbox_session_key(instance))
      -- A server that has just started has taken everybody's lock.
      and pg_postmaster_start_time() < clock_timestamp() - interval '10 seconds' as absent
  from outbox_instances
  where heartbeat_at > clock_timestamp() - make_interval(secs => $4) and instance <> $1
)
select
  (select count(*) from others) + 1 as live,
  (select count(*) from outbox_shards) as shards,
  (select count(*) from outbox_shards where owner is null or lease_until < clock_timestamp()) as free,
  (select resharding_to is not null from outbox_installation) as resharding,
  (select locked from mine) as locked,
  (select coalesce(array_agg(instance) filter (where absent), '{}') from others) as absent
