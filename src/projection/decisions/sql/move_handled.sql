-- Gives a portion of the known events of one group to another. $1 text: from. $2 text: to. $3 bigint: how many. Returns
-- nothing; the count of deleted rows is that of the statement's rows. An event that the other group knows itself stays
-- its own.
with chosen as (
  select event_id from event_handled where consumer_group = $1 order by event_id limit $3
),
gone as (
  delete from event_handled h using chosen c where h.consumer_group = $1 and h.event_id = c.event_id
  returning h.event_id, h.event_type, h.aggregate_type, h.aggregate_id, h.event_version, h.topic, h.partition, h."offset", h.handled_at
)
insert into event_handled (
  consumer_group, event_id, event_type, aggregate_type, aggregate_id, event_version, topic, partition, "offset", handled_at
)
select $2, event_id, event_type, aggregate_type, aggregate_id, event_version, topic, partition, "offset", handled_at
from gone
on conflict (consumer_group, event_id) do update set handled_at = least(event_handled.handled_at, excluded.handled_at)
