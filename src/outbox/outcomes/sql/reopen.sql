-- Events whose rows refuse to be changed are tried again, or given up: from now on their rows count again. $1 bigint[]:
-- ids. $2 boolean: tried again. Then an event waits for its turn, and the events behind it after it; otherwise it is
-- noted as finished. Runs with the rows of their shards locked. Returns their ids, and whether the row waits as well,
-- so that the caller changes it too; running it twice finds none.
with reopened as (
  delete from outbox_outcomes where $2 and id = any($1) and status = 'FAILED' returning id
),
given_up as (
  update outbox_outcomes set status = 'DISCARDED', at = now(), dead_letter_to = null where not $2 and id = any($1) and status in ('FAILED', 'HELD') returning id
),
waiting as (
  select e.id, e.shard from reopened r join outbox_events e on e.id = r.id where e.status || '' = 'PENDING'
),
again as (
  insert into outbox_again (id, shard)
  select w.id, w.shard from waiting w join outbox_shards s on s.shard = w.shard where w.id <= s.done_id
  on conflict do nothing
),
lowered as (
  update outbox_shards s set low_id = greatest(least(s.low_id, w.id), least(s.done_id, 9223372036854775806) + 1)
  from (select shard, min(id) as id from waiting group by shard) w
  where s.shard = w.shard
),
due as (
  -- The event itself goes first: it is not among the HELD ones.
  update outbox_held_keys h set reason = 'retry', release_at = now(), topic = null, released_to = h.first_id
  where h.first_id in (select id from waiting union all select id from given_up)
)
select u.id, exists (select 1 from outbox_events e where e.id = u.id and e.status || '' = 'HELD') as row_waits
from (select id from reopened union all select id from given_up) u
