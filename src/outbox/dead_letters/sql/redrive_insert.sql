-- Makes a row of a dead letter that has none. $1 uuid: event_id. $2 text: aggregate type. $3 text: aggregate id. $4
-- text: event type. $5 int: event version. $6 text: topic. $7 text: key. $8 bytea: value. $9 jsonb: headers. $10 text:
-- correlation id. $11 text: causation id. $12 text: source. $13 text: trace context. $14 timestamptz: when the event
-- happened. Returns its id. Not to be repeated by itself: it runs in the transaction that noted the dead letter as gone
-- back.
insert into outbox_events (event_id, aggregate_type, aggregate_id, event_type, event_version, topic, partition_key, payload_raw, headers,
  correlation_id, causation_id, source, traceparent, created_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
returning id
