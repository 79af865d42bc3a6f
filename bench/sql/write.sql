-- One transaction of the live load. $1 text: topic. $2 bigint[]: numbers of the events. $3 bigint: keys. $4 text:
-- filler of the payload.
insert into outbox_events (aggregate_type, aggregate_id, event_type, topic, payload)
select 'Product', (n % $3::bigint)::text, 'LikeAddedEvent', $1, jsonb_build_object('n', n, 'filler', $4::text)
from unnest($2::bigint[]) n
