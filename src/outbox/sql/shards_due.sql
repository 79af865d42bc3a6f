-- Which of these shards have something to do: an event that waits, a held key whose time has come, or published events
-- that the watermark can pass now. $1 smallint[]: the idle shards of this instance. $2 bigint: the highest id that may
-- be claimed. $3 bigint: the horizon, up to which no row can appear any more. One cheap query for all of them. In the
-- order of (shard, id) for the reason given in claim.sql. Whether an event waits among those that were published ahead
-- is told by their number, since all of them are PENDING.
select s.shard
from outbox_shards s
where s.shard = any($1)
  and (
    exists (
      select 1 from (
        select 1 from outbox_events e
        where (e.shard, e.id) >= (s.shard, greatest(s.low_id,
            case when cardinality(s.ahead_ids) > 0 then least(s.ahead_ids[cardinality(s.ahead_ids)], 9223372036854775806) + 1 end)) and e.shard <= s.shard
          and e.status = 'PENDING' and e.id <= $2
          and not exists (select 1 from outbox_outcomes u where u.id = e.id and u.event_id = e.event_id)
        order by e.shard, e.id limit 1
      ) waiting
    )
    or s.ahead_ids[1] <= $3
    or cardinality(s.ahead_ids) < (
      select count(*) from outbox_events e
      where e.shard = s.shard and e.status = 'PENDING' and e.id >= s.low_id and e.id <= s.ahead_ids[cardinality(s.ahead_ids)]
        and not exists (select 1 from outbox_outcomes u where u.id = e.id and u.event_id = e.event_id))
    or exists (select 1 from outbox_again a where a.shard = s.shard and a.id <= $2)
    or exists (select 1 from outbox_held_keys h where h.shard = s.shard and h.release_at <= now())
  )
