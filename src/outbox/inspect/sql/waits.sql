-- What keeps events from being published, and figures of the outbox from being known; one row for each. $1 float8: a
-- relay that has said nothing for so many seconds does not run. Returns the situation, the topic, the shard, since when
-- (null: not known) and how many keys are concerned; and a row `clock` with the time of this server. Reads a few small
-- tables and an entry for each held key. Changes nothing. Times are clamped first, as in list_shards.sql.
select 'bound-too-high' as situation, null::text as topic, s.shard, null::timestamptz as since, 0::bigint as keys
from outbox_shards s
where greatest(s.done_id, s.low_id - 1) > (select case when is_called then last_value else last_value - 1 end from outbox_events_id_seq)
union all
select 'no-owner', null, s.shard, case when s.lease_until is not null then least(greatest(s.lease_until, 'epoch'), clock_timestamp()) end, 0
from outbox_shards s
where s.owner is null or (s.lease_until < clock_timestamp() and s.owner <> '00000000-0000-0000-0000-000000000000')
union all
select 'resharding', null, null, null, 0 from outbox_installation where resharding_to is not null
union all
select 'no-relay', null, null, case when max(heartbeat_at) is not null then least(greatest(max(heartbeat_at), 'epoch'), clock_timestamp()) end, 0
from outbox_instances
having coalesce(max(heartbeat_at) < clock_timestamp() - make_interval(secs => $1), true)
union all
select 'paused', topic, null, least(greatest(paused_at, 'epoch'), clock_timestamp()), 0 from outbox_pauses
union all
select case reason when 'partition' then 'partition-unavailable' else 'topic-unavailable' end, topic, null,
  min(least(greatest(held_at, 'epoch'), clock_timestamp())), count(*)
from outbox_held_keys
where reason in ('no-topic', 'denied', 'partition')
group by 1, 2
union all
select 'clock', null, null, clock_timestamp(), 0
