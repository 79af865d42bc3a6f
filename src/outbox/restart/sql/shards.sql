-- Lets the bounds of shards start anew. $1 smallint[]: shards, whose rows this transaction has locked. What was noted
-- of them belongs to ids of before: what waits is claimed from the first id on, so it need not be listed; by the notes
-- of progress new events would be deleted. A key whose first event is gone is released, also where another event has
-- its id by now; outcomes of events that are gone are forgotten, so that they are not taken for those of new ones.
-- Running it twice changes nothing more.
with forgotten as (
  delete from outbox_again where shard = any($1)
),
unnoted as (
  delete from outbox_progress where shard = any($1)
),
undecided as (
  delete from outbox_outcomes o where not exists (select 1 from outbox_events e where e.id = o.id and e.event_id = o.event_id)
),
released as (
  update outbox_held_keys h set release_at = now(), reason = 'retry', topic = null, released_to = null
  where h.shard = any($1) and not exists (
      select 1 from outbox_events e
      where e.id = h.first_id
        and (e.status || '' in ('FAILED', 'HELD')
          or exists (select 1 from outbox_outcomes o where o.id = e.id and o.event_id = e.event_id and o.status in ('FAILED', 'HELD')))
        and (h.partition_key is null or outbox_key_of(e.partition_key, e.aggregate_id) = h.partition_key))
)
update outbox_shards set low_id = 0, done_id = 0, ahead_ids = '{}' where shard = any($1)
