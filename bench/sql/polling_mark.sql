-- $1 bigint[]: ids of the rows that Kafka has acknowledged.
update outbox_events set status = 'PUBLISHED', published_at = now() where id = any($1)
