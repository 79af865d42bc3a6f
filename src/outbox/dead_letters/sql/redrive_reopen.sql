-- Makes FAILED rows PENDING again, with their attempts at 0, and lets the claim begin low enough to meet them. $1
-- bigint[]: their ids. $2 bigint[]: those among them that had failed by their outcome alone, and whose rows are HELD.
-- The error goes, since the dead letter has it; a dead letter that is still to be written is not. Runs under the locks
-- of lock_shards.sql. Returns the rows that changed; a repeat finds none.
with reopened as (
  update outbox_events set status = 'PENDING', retry_count = 0, last_error = null, failed_at = null, dead_letter_to = null
  where id = any($1) and (status || '' = 'FAILED' or (status || '' = 'HELD' and id = any($2)))
  returning id, shard
),
again as (
  insert into outbox_again (id, shard)
  select r.id, r.shard from reopened r join outbox_shards s on s.shard = r.shard where r.id <= s.done_id
  on conflict do nothing
),
lowered as (
  update outbox_shards s set low_id = greatest(least(s.low_id, r.lowest), least(s.done_id, 9223372036854775806) + 1)
  from (select shard, min(id) as lowest from reopened group by shard) r
  where s.shard = r.shard
)
select id from reopened order by id
