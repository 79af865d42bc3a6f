-- Parked events with everything that is in them. $1 text: group; null: all. $2 uuid[]: event ids. Reads only.
select consumer_group, event_id, event_type, topic, partition, "offset", projection, error, attempts, parked_at,
  release_asked_at is not null as releasing, discarded_at is not null as discarded, key, value, headers, recorded_at
from consumer_parked
where ($1::text is null or consumer_group = $1) and event_id = any($2)
order by topic, partition, "offset", consumer_group
