-- Which of these shards have something to do: an event that waits, or a held key whose time has come.
-- $1 smallint[]: the idle shards of this instance. $2 bigint: the highest id that may be claimed. One cheap query for all of them.
select s.shard
from outbox_shards s
where s.shard = any($1)
  and (
    exists (
      select 1 from (
        select id from outbox_events e where e.shard = s.shard and e.status = 'PENDING' and e.id >= s.low_id and e.id <= $2 order by e.id limit 1
      ) waiting
    )
    or exists (select 1 from outbox_held_keys h where h.shard = s.shard and h.release_at <= now())
  )
