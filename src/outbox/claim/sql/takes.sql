-- The bytes of a printed row, counted in outbox_relay.claimed, or null for a row that is small enough not to be
-- counted. $1 bigint: most bytes of one row. $2 bigint: most bytes of all rows. $3 int: rows up to this size are not
-- counted. outbox_count_claimed has the rest: null for a row that is returned whole, its size if that exceeds $1, -1
-- behind the row that filled $2.
case
  when (payload_text is not null or payload is null) and (headers_text is not null or headers is null)
    and greatest(octet_length(payload_text), octet_length(headers_text), 0) <= $3
    and greatest(octet_length(event_type), octet_length(payload_raw), octet_length(aggregate_id), octet_length(partition_key),
      octet_length(aggregate_type), octet_length(topic), octet_length(correlation_id), octet_length(causation_id),
      octet_length(source), octet_length(traceparent)) <= $3 / 8 then null
  else outbox_count_claimed(octet_length(event_type)::bigint + coalesce(octet_length(payload_raw), 0)
    + coalesce(octet_length(aggregate_id), 0) + coalesce(octet_length(partition_key), 0)
    + coalesce(octet_length(aggregate_type), 0) + coalesce(octet_length(topic), 0)
    + coalesce(octet_length(correlation_id), 0) + coalesce(octet_length(causation_id), 0)
    + coalesce(octet_length(source), 0) + coalesce(octet_length(traceparent), 0)
    + case when payload is null then 0 else coalesce(octet_length(payload_text), $1 + 1) end
    + case when headers is null then 0 else coalesce(octet_length(headers_text), $1 + 1) end, $1, $2)
end
