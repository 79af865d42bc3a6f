-- What the filters of events have in common, wherever events are chosen by hand. A null filter matches everything. $1
-- bigint: id. $2 uuid: event_id. $3 text: key. $5 text: topic. $6 text: event type. $7 text: aggregate type. $8 text:
-- aggregate id. $9 text: correlation id. $10 timestamptz, $11 float8: created since this time, and since so many
-- seconds ago. $12 timestamptz, $13 float8: created before, likewise.
($1::bigint is null or id = $1)
  and ($2::uuid is null or event_id = $2)
  and ($3::text is null or outbox_key_of(partition_key, aggregate_id) = outbox_key_of($3, null))
  and ($5::text is null or topic = $5)
  and ($6::text is null or event_type = $6)
  and ($7::text is null or aggregate_type = $7)
  and ($8::text is null or aggregate_id = $8)
  and ($9::text is null or correlation_id = $9)
  and ($10::timestamptz is null or created_at >= $10)
  and ($11::float8 is null or created_at >= now() - make_interval(secs => $11))
  and ($12::timestamptz is null or created_at < $12)
  and ($13::float8 is null or created_at < now() - make_interval(secs => $13))
